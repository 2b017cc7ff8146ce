"""The whole check: every page of nbs/ run from top to bottom, then what must hold of the project as a whole.

    python .ci/check.py [--flags slow,net] [--jobs 2] [--threads 1] [PAGE ...]

Each page runs in a fresh kernel with the page's folder as its working folder; nothing it prints is
stored. Cells that carry a test flag (`tst_flags` in settings.ini) run only when all their flags are on; `real` is on when $SCNB_DATA names a folder with data, `browser` where Chromium is on the path.
Each page's line says how long it took; the last line counts pages, asserting cells and project checks. With PAGEs named, only these run.
"""
import argparse
import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from configparser import ConfigParser
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT/"nbs"
INI = ConfigParser(delimiters=["="])
INI.read(ROOT/"settings.ini", encoding="utf-8")
CFG = INI["DEFAULT"]
KNOWN = set(CFG["tst_flags"].split())
LIB = ROOT/CFG["lib_path"]
EXPORT = {"export", "exports", "exporti"}
# cells flagged `browser` look for these
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


LEFT = {"__pycache__", "_proc", "_docs"}                                 # folders that tools leave


def under(folder, kind="*"):
    "Files below `folder`, as paths from it, without hidden ones and what tools leave."
    found = (p.relative_to(folder) for p in folder.rglob(kind) if p.is_file())
    hidden = lambda p: LEFT & set(p.parts) or any(w[0] == "." for w in p.parts)
    return sorted(p for p in found if not hidden(p))


def sidebar():
    "The pages that the sidebar lists, as paths from nbs/, in its order."
    import yaml
    site = yaml.safe_load((ROOT/"_quarto.yml").read_text(encoding="utf-8"))
    def walk(items):
        for item in items:
            if isinstance(item, str): yield item
            else:
                if "href" in item: yield item["href"]
                yield from walk(item.get("contents", []))
    found = walk(site["website"]["sidebar"]["contents"])
    return [name for name in found if name.endswith(".ipynb")]


def pages():
    "The notebooks of the project: in the sidebar's order, then by path those that it lacks."
    place = {name: n for n, name in reversed([*enumerate(sidebar())])}
    found = [p.as_posix() for p in under(NBS, "*.ipynb")]
    return [NBS/p for p in sorted(found, key=lambda p: (place.get(p, len(place)), p))]


def label(path): return f"nbs/{path.relative_to(NBS).as_posix()}"


def module_of(path):
    "The file that a page's code is exported to, as a path from the package's folder, or None."
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for words in directives(source(cell)) if cell["cell_type"] == "code" else ():
            if words[0] == "default_exp": return Path(*words[1].split(".")).with_suffix(".py")


# ---------------------------------------------------------------- cells
def source(cell): return "".join(cell["source"])


def directives(text):
    "The words of each leading `#|` line."
    found = []
    for line in text.splitlines():
        if m := re.match(r"\s*#\s*\|\s*(.+)", line): found.append(m[1].split())
        elif line.strip(): break
    return found


def is_exported(text):
    "Does this cell go into a module?"
    return any(words[0] in EXPORT for words in directives(text))


def flags(text):
    "The test flags of a cell: `#| real` and `#| slow` on two lines, or both on one."
    return {w for words in directives(text) if words[0] in KNOWN for w in words} & KNOWN


def asserts(text):
    """Does this cell test something? An `assert`, a `test_...(...)`, a `raises(...)` or a
    `check_model(...)`, not in exported code."""
    if is_exported(text): return False
    try: tree = ast.parse(re.sub(r"^\s*[%!].*$", "", text, flags=re.M))
    except SyntaxError: return False
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert): return True
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", None) or getattr(node.func, "attr", "")
            if name.startswith("test_") or "raises" in name.lower() or name == "check_model":
                return True
    return False


# ---------------------------------------------------------------- one page, in a process of its own
def run_page(path, on, timeout):
    "Runs a notebook; returns what happened, as a dict for JSON. The stored file is only read."
    import nbformat
    from jupyter_client import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    nb = nbformat.read(path, as_version=4)
    here = Path(tempfile.mkdtemp(prefix="k", dir=os.environ.get("SCNB_CHECK_TMP")))
    # sockets by file: no port to race for
    km = AsyncKernelManager(kernel_name="python3", transport="ipc",
        ip=str(here/"s"), connection_file=str(here/"c.json"))
    client = NotebookClient(nb, km=km, timeout=timeout,
        resources={"metadata": {"path": str(path.parent)}})
    told = dict(page=label(path), asserting=0, passed=0, skipped={}, error=None)
    run = []
    for number, cell in enumerate(nb.cells):
        if cell.cell_type != "code" or not cell.source.strip(): continue
        off = flags(cell.source) - on
        if ["eval:", "false"] in directives(cell.source): off = {"eval: false"}
        if off:
            name = "+".join(sorted(off))
            told["skipped"][name] = told["skipped"].get(name, 0) + 1
        else: run.append((number, cell))
    told["asserting"] = sum(asserts(c.source) for _, c in run)
    try:
        with client.setup_kernel():
            for number, cell in run:
                text, counts = cell.source, asserts(cell.source)
                try: client.execute_cell(cell, number)
                except CellExecutionError:
                    error = next(("\n".join(o.traceback)
                            for o in cell.outputs if o.output_type == "error"), "?")
                except CellTimeoutError: error = f"no end after {timeout} s"
                except DeadKernelError:
                    error = "the kernel died (killed, out of memory, or a crash in compiled code)"
                else:
                    told["passed"] += counts
                    continue
                error = re.sub(r"\x1b\[[0-9;]*m", "", error)
                told["error"] = dict(cell=number + 1, of=len(nb.cells),
                    id=cell.get("id", ""), source=text, message=error)
                break
    finally: shutil.rmtree(here, ignore_errors=True)
    return told


def start(path, on, args):
    """`run_page` in a subprocess; a crash of it is told like any other failure. With the seconds
    that it took."""
    began = time.monotonic()
    return _start(path, on, args) | dict(seconds=time.monotonic() - began)


def _start(path, on, args):
    out = subprocess.run([sys.executable, __file__, "--one", str(path), "--flags",
            ",".join(on), "--timeout", str(args.timeout)], stdin=subprocess.DEVNULL,
        capture_output=True, text=True, env=environment(args.threads))
    try: return json.loads(out.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return dict(page=label(path), asserting=0, passed=0, skipped={}, error=dict(cell=0, of=0,
                id="", source="", message=out.stderr[-3000:] or "the runner ended without a word"))


def environment(threads):
    """What every child sees: this tree first on the path, few threads, nothing of the user's
    Jupyter set-up."""
    env = {**os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        env[name] = str(threads)
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        env[name] = str(Path(env["SCNB_CHECK_TMP"])/name.lower())
    env.update(JUPYTER_PREFER_ENV_PATH="1", PYDEVD_DISABLE_FILE_VALIDATION="1")
    # nbdev_export does nothing where this is set
    env.pop("IN_TEST", None)
    return env


def report(told):
    "One line for a page that passed; the cell, its source and its error for one that did not."
    skipped = ", ".join(f"{n} {what}" for what, n in sorted(told["skipped"].items()))
    print(f"{'FAIL' if told['error'] else 'ok  '} {told['page']:36s} {told['passed']:3d} of "
        f"{told['asserting']} asserting cells, {told['seconds']:4.0f} s"
        + (f"; not run: {skipped}" if skipped else ""), flush=True)
    if not (e := told["error"]): return
    left = told["asserting"] - told["passed"] - asserts(e["source"])
    print(f"     cell {e['cell']} of {e['of']} (id {e['id']})" + (f"; {left} asserting cells "
            f"after it were not reached and count as failed" if left else ""))
    print(*("     | " + l for l in e["source"].splitlines()), sep="\n")
    print(*("     > " + l for l in e["message"].splitlines()[-40:]), "", sep="\n", flush=True)


# ---------------------------------------------------------------- the project as a whole: each
# check yields what is wrong
CHECKS, QUICK = [], []       # in order; the quick ones run for pages named on the command line too


def project(f):
    "Marks a check of the project as a whole."
    CHECKS.append(f)
    return f


def quick(f):
    "Marks one that takes no time and says which page it is about."
    QUICK.append(f)
    return project(f)


def beside(name):
    "The module `name` of this folder."
    if (here := str(Path(__file__).resolve().parent)) not in sys.path: sys.path.insert(0, here)
    return importlib.import_module(name)


SETUP = ("settings.ini", "setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md",
         "constraints.txt")


def copied(to):
    "A copy of what nbdev and a build read and write, so that a check touches nothing here."
    to = Path(to).resolve()
    files = [ROOT/name for name in SETUP] + pages() + [LIB/f for f in under(LIB)]
    for f in files:
        place = to/f.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(f, place)
    return to


def nbdev(command, folder, path=None):
    "Runs one of nbdev's commands in `folder`; a list of what went wrong."
    # with `site_pages`
    env = {**environment(1),
        "PYTHONPATH": os.pathsep.join([str(folder), str(Path(__file__).resolve().parent)])}
    env.pop("SCNB_DATA", None)                                 # none of this may need data
    if path: env["PATH"] = os.pathsep.join([path, env["PATH"]])
    code = (f"import sys; sys.argv = ['{command[1]}']\nfrom nbdev.{command[0]} import {command[1]} "
        f"as f\nif __name__ == '__main__': f()")
    # a file, since its workers start as fresh processes that import it
    (folder/"_run.py").write_text(code)
    out = subprocess.run([sys.executable, "_run.py"], cwd=folder, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, env=env)
    return ([f"{command[1]}: {(out.stderr or out.stdout).strip()[-500:]}"] if out.returncode
        or "Failed to" in out.stderr else [])


def differing(a, b, kind="*"):
    "The files that are not byte for byte the same in both folders."
    names = {p for folder in (a, b) for p in under(folder, kind)}
    same = lambda p: (a/p).exists() and (b/p).exists() and (a/p).read_bytes() == (b/p).read_bytes()
    return sorted(p.as_posix() for p in names if not same(p))


@quick
def every_tracked_page_is_checked():
    "No page that git holds escapes these checks."
    if not (ROOT/".git").exists() or not shutil.which("git"): return
    command = ["git", "ls-files", "-z", "nbs/*.ipynb", "nbs/**.ipynb"]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if out.returncode: yield f"git ls-files: {out.stderr.strip()[-200:]}"
    tracked = set(filter(None, out.stdout.split("\0")))
    for name in sorted(tracked - {label(p) for p in pages()}):
        yield f"{name} is in git, but not among the pages checked"


@project
def clean_changes_nothing():
    with tempfile.TemporaryDirectory() as tmp:
        to = copied(tmp)
        yield from nbdev(("clean", "nbdev_clean"), to)
        for name in differing(NBS, to/NBS.name, "*.ipynb"):
            yield f"nbs/{name} is not clean: run nbdev_clean"


@project
def export_changes_nothing():
    with tempfile.TemporaryDirectory() as tmp:
        to = copied(tmp)
        yield from nbdev(("doclinks", "nbdev_export"), to)
        for name in differing(LIB, to/LIB.name):
            yield f"{LIB.name}/{name} is not what the pages export: run nbdev_export"


@quick
def every_module_has_a_page():
    with tempfile.TemporaryDirectory() as tmp:
        to = copied(tmp)
        modules = [f for f in under(LIB, "*.py") if f.name != "__init__.py"]
        for f in modules: (to/LIB.name/f).unlink()
        yield from nbdev(("doclinks", "nbdev_export"), to)
        for f in modules:
            if not (to/LIB.name/f).exists(): yield f"{LIB.name}/{f.as_posix()}: no page exports it"


@project
def readme_is_up_to_date():
    readme = beside("readme")
    here = ROOT/"README.md"
    if not here.exists(): yield "README.md is missing: run make readme"
    elif here.read_text(encoding="utf-8") != readme.render():
        yield "README.md is not what nbs/index.ipynb gives: run make readme"


TRACE = re.compile(r"(?<![\w.:/])/(?:root|home|Users|work|tmp|opt|usr/(?:lib|local)|var|mnt|private)/[\w.\-/]+|[A-Z]:\\Users\\|Traceback \(most recent|\b\w*Warning: ")
IMAGES = {"image/png", "image/jpeg"}


@quick
def stored_outputs_are_clean():
    "No machine path, traceback, warning, progress bar or widget in what is stored."
    for path in pages():
        for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"], 1):
            for o in cell.get("outputs", []):
                where, data = f"{label(path)}, cell {number}", o.get("data", {})
                text = "\n".join(["".join(o.get("text", [])), *("".join(v) if isinstance(v, list)
                            else str(v) for k, v in data.items() if k not in IMAGES)])
                if o["output_type"] == "error": yield f"{where}: a stored error, {o.get('ename')}"
                elif m := TRACE.search(text): yield f"{where}: {m[0][:80]!r} in the stored output"
                elif o.get("name") == "stderr":
                    yield f"{where}: stored text on stderr, {text.strip()[:80]!r}"
                elif any("widget" in k for k in data): yield f"{where}: a stored widget"


@quick
def sources_name_no_machine_path():
    for path in [*pages(), *(LIB/f for f in under(LIB))]:
        texts = ([source(c) for c in json.loads(path.read_text(encoding="utf-8"))["cells"]]
            if path.suffix == ".ipynb" else [path.read_text(encoding="utf-8")])
        for text in texts:
            if m := re.search(r"(?<![\w.:/])/(?:root|home|Users|work)/[\w.\-/]+", text):
                yield f"{path.relative_to(ROOT)}: {m[0]}"


@quick
def pages_are_small():
    for path in pages():
        if (size := path.stat().st_size) > 1_000_000:
            yield f"{label(path)}: {size/1e6:.1f} MB as stored; keep it under 1 MB"


@quick
def sidebar_lists_every_page():
    listed, here = sidebar(), [p.relative_to(NBS).as_posix() for p in pages()]
    for name in listed:
        if name not in here: yield f"_quarto.yml lists {name}, which does not exist"
    for name in here:
        if name not in listed: yield f"nbs/{name} is not in the sidebar of _quarto.yml"
        if listed.count(name) > 1:
            yield f"nbs/{name} is in the sidebar of _quarto.yml {listed.count(name)} times"
    stems = {}
    for name in here:                                         # a page's address drops its number
        stem = re.sub(r"^\d+[a-zA-Z0-9]*_", "", Path(name).stem.lower())
        stems.setdefault(stem, []).append(f"nbs/{name}")
    for stem, names in sorted(stems.items()):
        if len(names) > 1: yield f"{' and '.join(names)} share the address {stem}"


def imports(path):
    "Dotted names of all that a module imports, anywhere in it; relative ones as they are resolved."
    package = [LIB.name, *path.relative_to(LIB).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import): yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[:len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield base
            yield from (f"{base}.{a.name}" for a in node.names)    # a module, or what is in it


def import_graph():
    "module -> modules of the package that it imports: {'studies.gan': {'data', 'cscgan'}}."
    dotted = lambda f: ".".join([LIB.name, *f.with_suffix("").parts]).removesuffix(".__init__")
    files = {dotted(f): LIB/f for f in under(LIB, "*.py")}
    files = {n: f for n, f in files.items() if n not in (LIB.name, f"{LIB.name}._modidx")}
    graph = {}
    for module, file in files.items():
        found = set()
        for name in imports(file):
            while name and name not in files: name = name.rpartition(".")[0]       # to a module
            if name and name != module: found.add(name.removeprefix(f"{LIB.name}."))
        graph[module.removeprefix(f"{LIB.name}.")] = found
    return graph


@quick
def layers_hold():
    "A module imports only what stands before it in .ci/layers.txt, and nothing in a circle."
    lines = (ROOT/".ci"/"layers.txt").read_text(encoding="utf-8").splitlines()
    order = " ".join(l.split("#")[0] for l in lines).split()
    place = {name: n for n, name in enumerate(order)}
    if len(place) < len(order): yield ".ci/layers.txt names a module twice"
    graph = import_graph()
    rank = lambda module: place.get(module, place.get(module.split(".")[0]))
    file = lambda module: f"{LIB.name}/{module.replace('.', '/')}.py"
    for module, others in sorted(graph.items()):
        if rank(module) is None: yield f"{file(module)} is in no layer of .ci/layers.txt"
        for other in sorted(others):
            if None not in (rank(module), rank(other)) and rank(other) > rank(module):
                yield f"{file(module)} imports {other}, which stands after it in .ci/layers.txt"
    try: TopologicalSorter(graph).prepare()
    except CycleError as e: yield f"imports go in a circle: {' <- '.join(map(file, e.args[1]))}"


@quick
def imports_stay_in_cells_of_their_own():
    """A docs build runs every cell that imports something, and only those: anything else in such
    a cell would run without what it needs."""
    for path in pages():
        for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"], 1):
            if cell["cell_type"] != "code" or is_exported(source(cell)):
                continue
            try: tree = ast.parse(source(cell))
            except SyntaxError: continue
            here = (ast.Import, ast.ImportFrom)
            if (any(isinstance(n, here) for n in ast.walk(tree))
                    and not all(isinstance(n, here) for n in tree.body)):
                yield f"{label(path)}, cell {number}: an import beside other code, {next(l for l in source(cell).splitlines() if 'import' in l).strip()!r}"


@project
def site_builds_up_to_quarto():
    "What nbdev does before it calls Quarto, in a copy, with a stand-in for Quarto on the PATH."
    with tempfile.TemporaryDirectory() as tmp, tempfile.TemporaryDirectory() as bin:
        to = copied(tmp)
        shutil.copy2(ROOT/"_quarto.yml", to/NBS.name/"_quarto.yml")
        (Path(bin)/"quarto").write_text("#!/bin/sh\nexit 0\n")
        (Path(bin)/"quarto").chmod(0o755)
        yield from nbdev(("quarto", "nbdev_proc_nbs"), to, path=bin)
        for p in pages():
            if not (to/"_proc"/p.relative_to(NBS)).exists():
                yield f"{label(p)} did not make it into the site"


# What _quarto.yml may hold, a part of what Quarto documents:
# quarto.org/docs/reference/projects/websites.html (website, navbar, sidebar, their items)
# and quarto.org/docs/reference/formats/html.html (format). True: any value; a dict: these keys; a
# list: items like its first.
ITEM = {"text": True, "href": True, "icon": True, "aria-label": True}
SECTION = {"section": True, "contents": [ITEM]}
QUARTO_KEYS = {"project": {"type": True, "output-dir": True}, "lang": True, "metadata-files": True,
    "format": {"html": {"theme": {"light": True, "dark": True}, "respect-user-color-scheme": True,
            "css": True, "toc": True, "toc-depth": True,
            "code-copy": True, "code-overflow": True, "html-math-method": True}},
    "website": {"title": True, "description": True, "site-url": True, "repo-url": True,
        "repo-branch": True, "repo-actions": True, "favicon": True, "twitter-card": True,
        "open-graph": True, "page-navigation": True, "back-to-top-navigation": True, "search": True,
        "navbar": {"background": True, "search": True, "left": [ITEM], "right": [ITEM]},
        "sidebar": {"style": True, "contents": [SECTION | ITEM]}},}


def unknown_keys(value, known, where=""):
    "Keys of `value` that `known` does not have, as dotted names."
    if known is True or isinstance(value, str) and isinstance(known, dict): return
    if isinstance(known, list):
        for item in value if isinstance(value, list) else [value]:
            yield from unknown_keys(item, known[0], where)
    elif not isinstance(value, dict):
        yield f"{where.strip('.')}: {value!r} where keys were expected"
    else:
        for k, v in value.items():
            if k not in known: yield f"{where}{k}"
            else: yield from unknown_keys(v, known[k], f"{where}{k}.")


@project
def site_has_known_keys():
    import yaml
    for key in unknown_keys(yaml.safe_load((ROOT/"_quarto.yml").read_text(encoding="utf-8")),
            QUARTO_KEYS):
        yield f"_quarto.yml: {key} is not among the keys that QUARTO_KEYS in .ci/check.py takes from Quarto's reference"


def markdown(path):
    "Markdown of a page, cell by cell: its text cells, and what its outputs show as Markdown."
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"], 1):
        if cell["cell_type"] == "markdown": yield number, source(cell)
        for o in cell.get("outputs", []):
            if "text/markdown" in o.get("data", {}):
                yield number, "".join(o["data"]["text/markdown"])


def unfenced(text):
    "Without blocks and spans of code."
    return re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "`code`",
        re.sub(r"^(`{3,}|~{3,}).*?^\1[ \t]*$", "", text, flags=re.M | re.S), flags=re.S)


@quick
def titles_stand_alone():
    """nbdev takes the whole first cell for the site's title and subtitle: what else stands in it
    is lost."""
    for path in pages():
        first = json.loads(path.read_text(encoding="utf-8"))["cells"][0]
        if (first["cell_type"] != "markdown"
                or not re.fullmatch(r"# \S.*\n+> \S.*\n*(- aliases: \[\S+\]\n*)?", source(first))):
            yield f"{label(path)}: the first cell must hold the title (#) and one line below it (>), and nothing else, or the site leaves it out"


def heading_ids(path):
    "Where a link into a page may point: its headings, named as Pandoc does, and what it exports."
    seen, ids = {}, set()
    for number, text in markdown(path):
        for head in re.findall(r"^#{1,6}\s+(.+?)\s*#*$",
                re.sub(r"^(`{3,}|~{3,}).*?^\1[ \t]*$", "", text, flags=re.M | re.S), flags=re.M):
            if m := re.search(r"\{#([\w.-]+)[^}]*\}$", head): ids.add(m[1]); continue
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", head).replace("`", "").replace("*",
                "").replace("...", "").replace("--", "")
            name = re.sub(r"\s+", "-", re.sub(r"[^\w\s.-]", "", plain.lower()).strip())
            name = re.sub(r"^[^a-z]+", "", name) or "section"
            ids.add(name + (f"-{seen[name]}" if name in seen else ""))
            seen[name] = seen.get(name, 0) + 1
        for cell in () if number > 1 else json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if (cell["cell_type"] == "code"
                    and is_exported(source(cell))):
                ids |= {n.lower() for n in re.findall(r"^(?:def|class) (\w+)", source(cell), re.M)}
    return ids


@quick
def links_lead_somewhere():
    """Relative links and images of the pages, the README and _quarto.yml; a link into a page
    must hit a heading."""
    def check(where, target, base):
        file, _, anchor = target.partition("#")
        if re.match(r"[a-z][a-z+.-]*:", file): return
        to = (base/file).resolve() if file else where[1]
        if not to.exists(): yield f"{where[0]}: {target} leads nowhere"
        elif anchor and to.suffix == ".ipynb" and anchor not in heading_ids(to):
            yield f"{where[0]}: {target}: no heading there has this name"
    texts = [(f"{label(p)}, cell {n}", p, text) for p in pages() for n, text in markdown(p)]
    if (ROOT/"README.md").exists():
        texts.append(("README.md", ROOT/"README.md",
                (ROOT/"README.md").read_text(encoding="utf-8")))
    for name, path, text in texts:
        found = (re.findall(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)", unfenced(text))
            + re.findall(r"<(?:img|a)\b[^>]*?(?:src|href)=\"([^\"]+)\"", unfenced(text)))
        for target in found: yield from check((name, path), target, path.parent)
        for alt, image in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", unfenced(text)):
            if not alt.strip(): yield f"{name}: the image {image} has no alternative text"
    for name in re.findall(r"href:\s*(\S+)", (ROOT/"_quarto.yml").read_text(encoding="utf-8")):
        yield from check(("_quarto.yml", ROOT/"_quarto.yml"), name, NBS)


@quick
def diagrams_have_alternative_text():
    for path in pages():
        for number, text in markdown(path):
            for block in re.findall(r"^```\{mermaid\}\n(.*?)^```", text, flags=re.M | re.S):
                if not re.match(r"%%\|\s*fig-alt:\s*\"[^\"\n]{30,}\"\s*\n", block):
                    yield f"{label(path)}, cell {number}: the diagram's first line must be its alternative text, %%| fig-alt: \"...\", in a sentence or two"


@quick
def figures_have_alternative_text():
    for path in pages():
        for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"], 1):
            pictured = any(kind.startswith("image/") for o in cell.get("outputs", [])
                for kind in o.get("data", {}))
            if pictured and not re.search(r'^#\| fig-alt: "[^"\n]{30,}"$',
                    source(cell), flags=re.M):
                yield f'{label(path)}, cell {number}: a cell that shows a figure begins with #| fig-alt: "..."; what is to be seen, in a sentence or two'


@quick
def markdown_reads_the_same_everywhere():
    "What Jupyter shows as a list, a table or a word in angle brackets, and Pandoc does not."
    item = re.compile(r"\s*(?:[-*+]|\d+[.)])\s+\S")
    for path in pages():
        for number, text in markdown(path):
            lines = [""] + unfenced(text).splitlines()
            for before, line in zip(lines, lines[1:]):
                where = f"{label(path)}, cell {number}: {line.strip()[:60]!r}"
                if (item.match(line) and before.strip()
                        and not item.match(before) and not before.startswith((" ", "\t"))):
                    yield f"{where}: a list needs an empty line before it"
                if line.startswith("|") and before.strip() and not before.startswith("|"):
                    yield f"{where}: a table needs an empty line before it"
                if m := re.search(r"<(?!!--|/?(?:br|img|a|sub|sup|details|summary|kbd|small|https?:)\b)[a-zA-Z]\w*>", line):
                    yield f"{where}: {m[0]} would be taken for HTML"


def cells_of(row):
    "The cells of a table's row; a bar inside code or a formula does not end one."
    return [c.strip()
        for c in re.split(r"\|(?=(?:[^$`]|\$[^$]*\$|`[^`]*`)*$)", row.strip().strip("|"))]


def letter(symbol):
    """A symbol without the indices of cells, genes and clusters: x_{ij} is x, but lambda_1 is no
    other's lambda; c(i) is a function."""
    symbol = re.sub(r"\s+", " ", symbol.strip()).replace("{ ", "{")
    return re.sub(r"\((?:[a-z])\)", "()", re.sub(r"_(?:\{([^{}]*)\}|(\w))",
            lambda m: "" if set(m[1] or m[2]) <= set("ijkcgdx") else f"_{m[1] or m[2]}", symbol))


def words_of(meaning):
    "The first two words that carry a meaning."
    words = re.findall(r"[a-z]+(?:-[a-z]+)*", re.split(r"[:;,(=]",
            re.sub(r"\$[^$]*\$|\[|\]\([^)]*\)|\*|`[^`]*`", " ", meaning.lower()))[0])
    return [w for w in words if w not in {"a", "an", "the", "of", "its", "their", "is", "that",
            "one", "in", "and", "each", "model"}][:2] or [meaning.lower().strip()]


def symbol_rows(path):
    """(letter, meaning, number of the cell) of the tables that begin with `letter` or `symbol`;
    not where the page says that they are the letters of this page only."""
    for number, text in markdown(path):
        lines = text.splitlines()
        for i, head in enumerate(lines[:-1]):
            names = [c.lower() for c in cells_of(head)] if head.startswith("|") else []
            if (not (len(names) > 1 and re.search(r"letter|symbol", names[0])
                        and names[1] == "meaning" and set(lines[i + 1]) <= set("|-: "))
                    or "letters of this page only" in text):
                continue
            for row in lines[i + 2:]:
                if not row.startswith("|"): break
                cells = cells_of(row)
                symbols = [s for part in re.findall(r"\$([^$]+)\$", cells[0])
                    for s in re.split(r",(?![^{]*\})", part)]
                parts = [p for p in re.split(r"[;,]| and ", re.sub(r"\([^)]*\)",
                            lambda m: m[0].replace(",", " "), cells[1])) if p.strip()]
                for n, s in enumerate(symbols):
                    yield letter(s), (parts[n] if len(symbols) > 1
                        and len(parts) >= len(symbols) else cells[1]), cells[1], number


# A letter of the tables, what shows that a formula gives it another meaning, what to write instead.
CLASHES = [
    (r"\lambda", r"\bPois(?:son)?\}?\s*(?:\\left)?\s*\(\s*\\lambda", r"a Poisson's rate is \mu"),
    ("G", r"\$G\$ (?:groups|sets)\b|\b(?:groups|sets) \$G\$", "a norm's number of groups is R"),
    (r"\gamma", r"\\gamma_\{?u\b|\\gamma\s*(?:\\odot|\\hat|\\frac\{x)", "a norm's scale is a"),
]


def own_letters(path): return any("letters of this page only" in text for _, text in markdown(path))


@quick
def letters_agree_over_pages():
    "One letter, one meaning: the first page to list it gives it; tables and formulas keep to it."
    owner = {}
    for path in pages():
        for name, meaning, whole, number in symbol_rows(path):
            first, words = owner.setdefault(name, (path.stem, words_of(meaning)))
            said = f"{label(path)}, cell {number}: ${name}$ is {whole!r}"
            if "(not the " in whole: yield f"{said}: without the note, or with another letter"
            elif first != path.stem and not all(w.rstrip("s") in whole.lower() for w in words):
                yield f"{said}, but on {first} {' '.join(words)!r}; use that, or another letter"
    clashes = [clash for clash in CLASHES if clash[0] in owner]
    for path in [p for p in pages() if not own_letters(p)]:
        for number, text in markdown(path):
            for name, pattern, instead in clashes:
                if not (m := re.search(pattern, text)): continue
                first, words = owner[name]
                said = f"{label(path)}, cell {number}: {m[0]!r}"
                yield f"{said}, but ${name}$ is {' '.join(words)!r} on {first}; {instead}"


@project
def citation_is_valid():
    import yaml
    cff = yaml.safe_load((ROOT/"CITATION.cff").read_text(encoding="utf-8"))
    if str(cff.get("cff-version")) != "1.2.0": yield "CITATION.cff: cff-version is not 1.2.0"
    for key in ("message", "title", "authors"):
        if not cff.get(key): yield f"CITATION.cff has no {key}"
    known = set("abstract authors cff-version commit contact date-released doi "
        "identifiers keywords license license-url message preferred-citation references "
        "repository repository-artifact repository-code title type url version".split())
    for key in sorted(set(cff) - known):
        yield f"CITATION.cff: {key} is no key of version 1.2.0 of the format"
    if str(cff.get("version")) != CFG["version"]:
        yield f"CITATION.cff says version {cff.get('version')}; settings.ini says {CFG['version']}"
    if (cff.get("repository-code") != CFG["git_url"]
            or cff.get("url") != CFG["doc_host"] + CFG["doc_baseurl"]):
        yield "CITATION.cff names other addresses than settings.ini"


@project
def runtime_needs_no_tools():
    "The package imports nothing that only the development set brings."
    tools = {"nbdev", "execnb", "ghapi", "fastgit", "IPython", "ipykernel",
        "jupyter_client", "nbformat", "nbconvert", "nbclient", "hypothesis", "pytest"}
    for f in under(LIB, "*.py"):
        for name in sorted({n.split(".")[0] for n in imports(LIB/f)} & tools):
            yield f"{LIB.name}/{f.as_posix()} imports {name}"


@project
def help_is_light():
    "`scnb --help` works and imports neither torch nor scanpy."
    code = """import sys
sys.argv = ["scnb", "--help"]
from scnb.cli import app
try: app()
except SystemExit as e: assert not e.code, e.code
heavy = sorted({"torch", "scanpy", "anndata", "sklearn", "matplotlib", "numba", "pandas"} & set(sys.modules))
assert not heavy, f"scnb --help imports {', '.join(heavy)}"
"""
    script = Path(sys.executable).parent/"scnb"
    for command in ([sys.executable, "-c", code], [str(script), "--help"],
            [str(script), "no-such-command"]):
        if command[0] == str(script) and not script.exists():
            yield f"no scnb command beside {Path(sys.executable).name}: install with pip install -e ."
            continue
        out = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, env=environment(1))
        want = 2 if command[-1] == "no-such-command" else 0
        if out.returncode != want:
            yield f"{' '.join(c for c in command[1:] if c != code) or 'help'}: exit {out.returncode}, expected {want}: {out.stderr.strip()[-300:]}"
        elif not want and "cluster" not in out.stdout: yield "scnb --help does not mention cluster"


@quick
def pages_have_outputs():
    for p in pages():
        code = [c for c in json.loads(p.read_text(encoding="utf-8"))["cells"]
            if c["cell_type"] == "code"]
        if code and not any(c["outputs"] for c in code):
            yield f"{label(p)} has no stored output: jupyter nbconvert --to notebook --execute --inplace {label(p)} stores them"


@quick
def index_names_every_page():
    index = "".join(source(c)
        for c in json.loads((NBS/"index.ipynb").read_text(encoding="utf-8"))["cells"])
    for p in pages():
        if p != NBS/"index.ipynb" and f"({p.relative_to(NBS).as_posix()}" not in index:
            yield f"{label(p)} has no row in the table of nbs/index.ipynb"


@project
def one_version():
    text = (LIB/"__init__.py").read_text(encoding="utf-8").strip()
    if text != f'__version__ = "{CFG["version"]}"':
        yield f"scnb/__init__.py holds {text!r}; settings.ini says {CFG['version']}"


@project
def constraints_pin_everything():
    lines = [l.strip() for l in (ROOT/"constraints.txt").read_text().splitlines()
        if l.strip() and l[0] != "#"]
    norm = lambda s: re.sub(r"[-_.]+", "-", s).lower()
    pins = {norm(l.split("==")[0]) for l in lines}
    for l in lines:
        if not re.fullmatch(r"[\w.\-]+==[\w.!\-]+", l):
            yield f"constraints.txt: {l!r} is not an exact public version"
    for key in ("requirements", "dev_requirements"):
        for r in CFG[key].split():
            if norm(re.split(r"[<>=!~\[]", r)[0]) not in pins:
                yield f"constraints.txt does not pin {r} ({key})"


def stored_counts(): return json.loads((ROOT/".ci"/"counts.json").read_text(encoding="utf-8"))


@project
def no_count_gets_worse():
    "No count of .ci/house.py is worse than the stored one; `house.py --update` stores better ones."
    yield from beside("house").worse(stored_counts())


@project
def public_names_are_used():
    "Names in `__all__` that only their own module and page use: they may not get more."
    unused, stored = beside("house").unused_names(), stored_counts()["public_names_unused"]
    if len(unused) > stored:
        yield f"{len(unused)} names are used nowhere else, {stored} were: {', '.join(unused)}"


def run_away(command, cwd, path):
    "Runs Python in `cwd`, `path` first on its path; what it printed, and what went wrong."
    env = {**environment(1), "PYTHONPATH": str(path)}
    env.pop("SCNB_DATA", None)
    out = subprocess.run([sys.executable, *command], cwd=cwd, stdin=subprocess.DEVNULL,
                         capture_output=True, text=True, env=env)
    failed = f"{' '.join(command)[:100]}: exit {out.returncode}: {out.stderr.strip()[-400:]}"
    return out.stdout, [failed] if out.returncode else []


COMMANDS = """import scnb, typer
from scnb.cli import app
def walk(group, path=()):
    for name, command in group.commands.items():
        print(*path, name)
        if hasattr(command, "commands"): walk(command, (*path, name))
print(scnb.__file__)
walk(typer.main.get_command(app))
"""


@project
def wheel_is_whole():
    "A wheel installed far from this folder has every file of the package, and its commands work."
    with tempfile.TemporaryDirectory() as tmp:
        names = ("source", "wheels", "target", "away")
        source, wheels, target, away = (Path(tmp).resolve()/name for name in names)
        for folder in (source, wheels, away): folder.mkdir()
        copied(source)
        pip = ["-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
        build = ["wheel", "--no-build-isolation", "--wheel-dir", str(wheels), str(source)]
        install = ["install", "--target", str(target), "--find-links", str(wheels), LIB.name]
        for command in (build, install):
            _, wrong = run_away([*pip, *command, "--no-deps", "--no-index"], away, "")
            yield from wrong
            if wrong: return
        for f in under(LIB):
            if not (target/LIB.name/f).exists():
                yield f"{LIB.name}/{f.as_posix()} is not in the wheel"
        found, wrong = run_away(["-c", COMMANDS], away, target)
        yield from wrong
        place, *commands = found.splitlines() or [""]
        if Path(place).parent != target/LIB.name: yield f"{place!r} was imported, not the wheel's"
        cli = ["-m", f"{LIB.name}.cli"]
        for command in ("", *commands):
            yield from run_away([*cli, *command.split(), "--help"], away, target)[1]
        cells = "from scnb.data import simulate; simulate(150, 100).write_h5ad('cells.h5ad')"
        report = "report cells.h5ad -o report --label-key group --fast --max-epochs 2".split()
        for command in (["-c", cells], [*cli, *report]):
            yield from run_away(command, away, target)[1]
        if not (away/"report"/"index.html").exists(): yield "scnb report wrote no index.html"


@project
def old_models_load():
    "Models in nbs/fixtures that earlier versions saved load, and say what they said."
    command = [sys.executable, str(Path(__file__).resolve().parent/"old_models.py")]
    out = subprocess.run(command, capture_output=True, text=True, env=environment(1))
    yield from out.stdout.splitlines()
    if out.returncode and not out.stdout.strip(): yield out.stderr.strip()[-500:]


def check(f, about=()):
    "Run a check, and say what it found; `about`: only what names one of these files."
    try: wrong = [w for w in f() if not about or any(name in w for name in about)]
    except Exception as e: wrong = [f"{type(e).__name__}: {e}"]
    print(f"{'FAIL' if wrong else 'ok  '} {f.__name__.replace('_', ' ')}",
        *(f"     {w}" for w in wrong), sep="\n", flush=True)
    return not wrong


def tree(on):
    """What a run must leave as it was: pages, modules, and which files lie in nbs/ (slow cells
    may add results)."""
    files = [*pages(), *(LIB/f for f in under(LIB))]
    keep = {str(p.relative_to(ROOT)): p.read_bytes() for p in files}
    skip = {"__pycache__", ".ipynb_checkpoints"} | ({"results"} if "slow" in on else set())
    return keep, {str(p.relative_to(ROOT)) for p in NBS.rglob("*") if not skip & set(p.parts)}


# ---------------------------------------------------------------- all of it
def data_found():
    folders = [Path(f) for f in os.environ.get("SCNB_DATA", "").split(os.pathsep) if f]
    return any(next(f.glob("*.h5ad"), None) for f in folders)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", nargs="*", help="run only these pages, e.g. 00_losses")
    parser.add_argument("--flags", default="",
        help="test flags to switch on, with commas or spaces between them")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--timeout", type=int, default=900, help="seconds for one cell")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    on = set(re.split(r"[,\s]+", args.flags.strip())) - {""}
    if on - KNOWN:
        parser.error(
            f"unknown flag {', '.join(sorted(on - KNOWN))}; known: {' '.join(sorted(KNOWN))}")
    if args.one: return print(json.dumps(run_page(Path(args.one), on, args.timeout)))

    if "slow" in on: args.timeout *= 16
    # as the Makefile does
    if "SCNB_DATA" not in os.environ and (ROOT.parent/"shared"/"data").is_dir():
        os.environ["SCNB_DATA"] = str(ROOT.parent/"shared"/"data")
    if os.environ.get("SCNB_DATA"):
        os.environ["SCNB_DATA"] = os.pathsep.join(str(Path(f).resolve())
            for f in os.environ["SCNB_DATA"].split(os.pathsep) if f)
    if data_found():
        on.add("real")
        print("real data: found, cells flagged `real` run")
    else:
        print("real data: none found ($SCNB_DATA), cells flagged `real` are left out"
            if "real" not in on else "real data: none found ($SCNB_DATA), but asked for")
    if any(map(shutil.which, BROWSERS)): on.add("browser")
    print("flags on: " + (" ".join(sorted(on)) or "none"), flush=True)

    wanted = {Path(p).stem for p in args.page}
    todo = [p for p in pages() if not wanted or p.stem in wanted]
    if missing := wanted - {p.stem for p in todo}:
        parser.error(f"no page {', '.join(sorted(missing))} in nbs/")
    named = todo if wanted else []
    about = [label(p) for p in named]
    about += [f"{LIB.name}/{m.as_posix()}" for m in map(module_of, named) if m]
    passed = failed = 0
    before = tree(on)
    with tempfile.TemporaryDirectory(
            prefix="scnb") as tmp, ThreadPoolExecutor(max(1, args.jobs)) as pool:
        os.environ["SCNB_CHECK_TMP"] = tmp
        began, spent = time.monotonic(), 0
        for told in pool.map(lambda p: start(p, on, args), todo):
            report(told)
            spent += told["seconds"]
            passed += told["passed"] + (told["error"] is None)
            failed += told["asserting"] - told["passed"] + (told["error"] is not None)

        print(f"pages: {(time.monotonic() - began) / 60:.1f} minutes ({spent / 60:.1f} one "
            f"after the other)", flush=True)

        def a_run_changes_no_file():
            after = tree(on)
            yield from (f"{n} was changed"
                for n in sorted(before[0]) if before[0][n] != after[0].get(n))
            yield from (f"{n} was left behind" for n in sorted(after[1] - before[1]))

        def there_are_pages():
            if not todo: yield "nbs/ holds no notebook"
        for f in [there_are_pages, a_run_changes_no_file] + (QUICK if wanted else CHECKS):
            ok = check(f, about if f in QUICK else ())
            passed, failed = passed + ok, failed + (not ok)
        if wanted:
            print("these pages only; without a page's name all of them run, "
                "and the checks of the project as a whole")
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__": sys.exit(main())
