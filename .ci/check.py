"""The whole check: every page of nbs/ run from top to bottom, then what must hold of the project as a whole.

    python .ci/check.py [--flags slow,net] [--jobs 2] [--threads 1] [PAGE ...]

Each page runs in a fresh kernel with nbs/ as its working folder; nothing it prints is stored. Cells that carry a test flag
(`tst_flags` in settings.ini) run only when all their flags are on; `real` is on when $SCNB_DATA names a folder with data, `browser` where Chromium is on the path.
Each page's line says how long it took; the last line counts pages, asserting cells and project checks. With PAGEs named, only these run.
"""
import argparse
import ast
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
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT/"nbs"
INI = ConfigParser(delimiters=["="])
INI.read(ROOT/"settings.ini", encoding="utf-8")
CFG = INI["DEFAULT"]
KNOWN = set(CFG["tst_flags"].split())
LIB = ROOT/CFG["lib_path"]
EXPORT = {"export", "exports", "exporti"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")             # cells flagged `browser` look for these


def pages():
    "The notebooks of the project, in reading order."
    return sorted((p for p in NBS.glob("*.ipynb") if p.name[0] not in "._"), key=lambda p: (p.stem == "index", p.name))


# ---------------------------------------------------------------- cells
def source(cell): return "".join(cell["source"])


def directives(text):
    "The words of each leading `#|` line."
    found = []
    for line in text.splitlines():
        if m := re.match(r"\s*#\s*\|\s*(.+)", line): found.append(m[1].split())
        elif line.strip(): break
    return found


def flags(text):
    "The test flags of a cell: `#| real` and `#| slow` on two lines, or both on one."
    return {w for words in directives(text) if words[0] in KNOWN for w in words} & KNOWN


def asserts(text):
    "Does this cell test something? An `assert`, a `test_...(...)`, a `raises(...)` or a `check_model(...)`, not in exported code."
    if any(words[0] in EXPORT for words in directives(text)): return False
    try: tree = ast.parse(re.sub(r"^\s*[%!].*$", "", text, flags=re.M))
    except SyntaxError: return False
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert): return True
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", None) or getattr(node.func, "attr", "")
            if name.startswith("test_") or "raises" in name.lower() or name == "check_model": return True
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
    km = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=str(here/"s"), connection_file=str(here/"c.json"))     # sockets by file: no port to race for
    client = NotebookClient(nb, km=km, timeout=timeout, resources={"metadata": {"path": str(path.parent)}})
    told = dict(page=path.name, asserting=0, passed=0, skipped={}, error=None)
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
                except CellExecutionError: error = next(("\n".join(o.traceback) for o in cell.outputs if o.output_type == "error"), "?")
                except CellTimeoutError: error = f"no end after {timeout} s"
                except DeadKernelError: error = "the kernel died (killed, out of memory, or a crash in compiled code)"
                else:
                    told["passed"] += counts
                    continue
                error = re.sub(r"\x1b\[[0-9;]*m", "", error)
                told["error"] = dict(cell=number + 1, of=len(nb.cells), id=cell.get("id", ""), source=text, message=error)
                break
    finally: shutil.rmtree(here, ignore_errors=True)
    return told


def start(path, on, args):
    "`run_page` in a subprocess; a crash of it is told like any other failure. With the seconds that it took."
    began = time.monotonic()
    return _start(path, on, args) | dict(seconds=time.monotonic() - began)


def _start(path, on, args):
    out = subprocess.run([sys.executable, __file__, "--one", str(path), "--flags", ",".join(on), "--timeout", str(args.timeout)],
                         stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment(args.threads))
    try: return json.loads(out.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return dict(page=path.name, asserting=0, passed=0, skipped={}, error=dict(cell=0, of=0, id="", source="", message=out.stderr[-3000:] or "the runner ended without a word"))


def environment(threads):
    "What every child sees: this tree first on the path, few threads, nothing of the user's Jupyter set-up."
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"): env[name] = str(threads)
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"): env[name] = str(Path(env["SCNB_CHECK_TMP"])/name.lower())
    env.update(JUPYTER_PREFER_ENV_PATH="1", PYDEVD_DISABLE_FILE_VALIDATION="1")
    env.pop("IN_TEST", None)                                                             # nbdev_export does nothing where this is set
    return env


def report(told):
    "One line for a page that passed; the cell, its source and its error for one that did not."
    skipped = ", ".join(f"{n} {what}" for what, n in sorted(told["skipped"].items()))
    print(f"{'FAIL' if told['error'] else 'ok  '} {told['page']:28s} {told['passed']:3d} of {told['asserting']} asserting cells, {told['seconds']:4.0f} s" + (f"; not run: {skipped}" if skipped else ""), flush=True)
    if not (e := told["error"]): return
    left = told["asserting"] - told["passed"] - asserts(e["source"])
    print(f"     cell {e['cell']} of {e['of']} (id {e['id']})" + (f"; {left} asserting cells after it were not reached and count as failed" if left else ""))
    print(*("     | " + l for l in e["source"].splitlines()), sep="\n")
    print(*("     > " + l for l in e["message"].splitlines()[-40:]), "", sep="\n", flush=True)


# ---------------------------------------------------------------- the project as a whole: each check yields what is wrong
def copied(to):
    "A copy of what nbdev reads and writes, so that a check touches nothing here."
    to = Path(to).resolve()
    for name in ("settings.ini", "setup.py", "pyproject.toml"): shutil.copy2(ROOT/name, to/name)
    for folder, kinds in ((NBS, ("*.ipynb",)), (LIB, ("*.py",))):
        (to/folder.name).mkdir()
        for kind in kinds:
            for f in folder.glob(kind): shutil.copy2(f, to/folder.name/f.name)
    return to


def nbdev(command, folder, path=None):
    "Runs one of nbdev's commands in `folder`; a list of what went wrong."
    env = {**environment(1), "PYTHONPATH": str(folder)}
    env.pop("SCNB_DATA", None)                                 # none of this may need data
    if path: env["PATH"] = os.pathsep.join([path, env["PATH"]])
    code = f"import sys; sys.argv = ['{command[1]}']\nfrom nbdev.{command[0]} import {command[1]} as f\nif __name__ == '__main__': f()"
    (folder/"_run.py").write_text(code)                        # a file, since its workers start as fresh processes that import it
    out = subprocess.run([sys.executable, "_run.py"], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env)
    return [f"{command[1]}: {(out.stderr or out.stdout).strip()[-500:]}"] if out.returncode or "Failed to" in out.stderr else []


def differing(a, b, kind):
    "Names of the files that are not byte for byte the same in both folders."
    names = {p.name for folder in (a, b) for p in folder.glob(kind)}
    return sorted(n for n in names if not ((a/n).exists() and (b/n).exists() and (a/n).read_bytes() == (b/n).read_bytes()))


def clean_changes_nothing():
    with tempfile.TemporaryDirectory() as tmp:
        to = copied(tmp)
        yield from nbdev(("clean", "nbdev_clean"), to)
        for name in differing(NBS, to/NBS.name, "*.ipynb"): yield f"nbs/{name} is not clean: run nbdev_clean"


def export_changes_nothing():
    with tempfile.TemporaryDirectory() as tmp:
        to = copied(tmp)
        yield from nbdev(("doclinks", "nbdev_export"), to)
        for name in differing(LIB, to/LIB.name, "*.py"): yield f"{LIB.name}/{name} is not what the pages export: run nbdev_export"


def every_module_has_a_page():
    with tempfile.TemporaryDirectory() as tmp:
        to = copied(tmp)
        for f in (to/LIB.name).glob("*.py"):
            if f.name != "__init__.py": f.unlink()
        yield from nbdev(("doclinks", "nbdev_export"), to)
        for f in sorted(LIB.glob("*.py")):
            if not (to/LIB.name/f.name).exists(): yield f"{LIB.name}/{f.name}: no page exports it"


def readme_is_up_to_date():
    sys.path.insert(0, str(Path(__file__).parent))
    import readme
    here = ROOT/"README.md"
    if not here.exists(): yield "README.md is missing: run make readme"
    elif here.read_text(encoding="utf-8") != readme.render(): yield "README.md is not what nbs/index.ipynb gives: run make readme"


TRACE = re.compile(r"(?<![\w.:/])/(?:root|home|Users|work|tmp|opt|usr/(?:lib|local)|var|mnt|private)/[\w.\-/]+|[A-Z]:\\Users\\|Traceback \(most recent|\b\w*Warning: ")
IMAGES = {"image/png", "image/jpeg"}


def stored_outputs_are_clean():
    "No machine path, traceback, warning, progress bar or widget in what is stored."
    for path in pages():
        for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"], 1):
            for o in cell.get("outputs", []):
                where, data = f"nbs/{path.name}, cell {number}", o.get("data", {})
                text = "\n".join(["".join(o.get("text", [])), *("".join(v) if isinstance(v, list) else str(v) for k, v in data.items() if k not in IMAGES)])
                if o["output_type"] == "error": yield f"{where}: a stored error, {o.get('ename')}"
                elif m := TRACE.search(text): yield f"{where}: {m[0][:80]!r} in the stored output"
                elif o.get("name") == "stderr": yield f"{where}: stored text on stderr, {text.strip()[:80]!r}"
                elif any("widget" in k for k in data): yield f"{where}: a stored widget"


def sources_name_no_machine_path():
    for path in [*pages(), *sorted(LIB.glob("*.py"))]:
        texts = [source(c) for c in json.loads(path.read_text(encoding="utf-8"))["cells"]] if path.suffix == ".ipynb" else [path.read_text(encoding="utf-8")]
        for text in texts:
            if m := re.search(r"(?<![\w.:/])/(?:root|home|Users|work)/[\w.\-/]+", text): yield f"{path.relative_to(ROOT)}: {m[0]}"


def pages_are_small():
    for path in pages():
        if (size := path.stat().st_size) > 1_000_000: yield f"nbs/{path.name}: {size/1e6:.1f} MB as stored; keep it under 1 MB"


def sidebar():
    import yaml
    found = yaml.safe_load((ROOT/"_quarto.yml").read_text(encoding="utf-8"))["website"]["sidebar"]["contents"]
    def walk(items):
        for item in items:
            if isinstance(item, str): yield item
            elif "href" in item: yield item["href"]
            else: yield from walk(item["contents"])
    return list(walk(found))


def sidebar_lists_every_page():
    listed, here = sidebar(), [p.name for p in pages()]
    for name in listed:
        if name not in here: yield f"_quarto.yml lists {name}, which does not exist"
    for name in here:
        if name not in listed: yield f"nbs/{name} is not in the sidebar of _quarto.yml"
        if listed.count(name) > 1: yield f"nbs/{name} is in the sidebar of _quarto.yml {listed.count(name)} times"
    stems = [re.sub(r"^\d+[a-zA-Z0-9]*_", "", n.lower()) for n in here]                # a page's address drops its number
    for stem in sorted({s for s in stems if stems.count(s) > 1}): yield f"two pages share the address {stem}"


def imports(path):
    "Top-level names and scnb modules that a module imports, anywhere in it."
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import): yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, [LIB.name if node.level else "", node.module]))
            yield base
            if base == LIB.name: yield from (f"{base}.{a.name}" for a in node.names)


def reading_order_is_import_order():
    "Exported code imports only from earlier pages; `losses` may reach for `kernels`."
    order = []
    for path in pages():
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            order += [w[1].replace(".", "/") for w in directives(source(cell)) if w[0] == "default_exp"] if cell["cell_type"] == "code" else []
    for n, module in enumerate(order):
        if not (LIB/f"{module}.py").exists(): continue
        for name in imports(LIB/f"{module}.py"):
            other = name.removeprefix(f"{LIB.name}.").split(".")[0] if name.startswith(f"{LIB.name}.") else None
            if other in order[n + 1:] and (module, other) != ("losses", "kernels"): yield f"{module} imports {other}, which is a later page"


def imports_stay_in_cells_of_their_own():
    "A docs build runs every cell that imports something, and only those: anything else in such a cell would run without what it needs."
    for path in pages():
        for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"], 1):
            if cell["cell_type"] != "code" or any(w[0] in EXPORT for w in directives(source(cell))): continue
            try: tree = ast.parse(source(cell))
            except SyntaxError: continue
            here = (ast.Import, ast.ImportFrom)
            if any(isinstance(n, here) for n in ast.walk(tree)) and not all(isinstance(n, here) for n in tree.body):
                yield f"nbs/{path.name}, cell {number}: an import beside other code, {next(l for l in source(cell).splitlines() if 'import' in l).strip()!r}"


def site_builds_up_to_quarto():
    "What nbdev does before it calls Quarto, in a copy, with a stand-in for Quarto on the PATH."
    with tempfile.TemporaryDirectory() as tmp, tempfile.TemporaryDirectory() as bin:
        to = copied(tmp)
        shutil.copy2(ROOT/"_quarto.yml", to/NBS.name/"_quarto.yml")
        (Path(bin)/"quarto").write_text("#!/bin/sh\nexit 0\n")
        (Path(bin)/"quarto").chmod(0o755)
        yield from nbdev(("quarto", "nbdev_proc_nbs"), to, path=bin)
        for p in pages():
            if not (to/"_proc"/p.name).exists(): yield f"nbs/{p.name} did not make it into the site"


# What _quarto.yml may hold, a part of what Quarto documents: quarto.org/docs/reference/projects/websites.html (website, navbar, sidebar, their items)
# and quarto.org/docs/reference/formats/html.html (format). True: any value; a dict: these keys; a list: items like its first.
ITEM = {"text": True, "href": True, "icon": True, "aria-label": True}
SECTION = {"section": True, "contents": [ITEM]}
QUARTO_KEYS = {
    "project": {"type": True, "output-dir": True}, "lang": True, "metadata-files": True,
    "format": {"html": {"theme": {"light": True, "dark": True}, "respect-user-color-scheme": True, "css": True, "toc": True, "toc-depth": True, "code-copy": True, "code-overflow": True, "html-math-method": True}},
    "website": {"title": True, "description": True, "site-url": True, "repo-url": True, "repo-branch": True, "repo-actions": True, "favicon": True, "twitter-card": True, "open-graph": True,
                "page-navigation": True, "back-to-top-navigation": True, "search": True,
                "navbar": {"background": True, "search": True, "left": [ITEM], "right": [ITEM]},
                "sidebar": {"style": True, "contents": [SECTION | ITEM]}},
}


def unknown_keys(value, known, where=""):
    "Keys of `value` that `known` does not have, as dotted names."
    if known is True or isinstance(value, str) and isinstance(known, dict): return
    if isinstance(known, list):
        for item in value if isinstance(value, list) else [value]: yield from unknown_keys(item, known[0], where)
    elif not isinstance(value, dict): yield f"{where.strip('.')}: {value!r} where keys were expected"
    else:
        for k, v in value.items():
            if k not in known: yield f"{where}{k}"
            else: yield from unknown_keys(v, known[k], f"{where}{k}.")


def site_has_known_keys():
    import yaml
    for key in unknown_keys(yaml.safe_load((ROOT/"_quarto.yml").read_text(encoding="utf-8")), QUARTO_KEYS): yield f"_quarto.yml: {key} is not among the keys that QUARTO_KEYS in .ci/check.py takes from Quarto's reference"


def markdown(path):
    "Markdown of a page, cell by cell: its text cells, and what its outputs show as Markdown."
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"], 1):
        if cell["cell_type"] == "markdown": yield number, source(cell)
        for o in cell.get("outputs", []):
            if "text/markdown" in o.get("data", {}): yield number, "".join(o["data"]["text/markdown"])


def unfenced(text):
    "Without blocks and spans of code."
    return re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "`code`", re.sub(r"^(`{3,}|~{3,}).*?^\1[ \t]*$", "", text, flags=re.M | re.S), flags=re.S)


def titles_stand_alone():
    "nbdev takes the whole first cell for the site's title and subtitle: what else stands in it is lost."
    for path in pages():
        first = json.loads(path.read_text(encoding="utf-8"))["cells"][0]
        if first["cell_type"] != "markdown" or not re.fullmatch(r"# \S.*\n+> \S.*\n*", source(first)): yield f"nbs/{path.name}: the first cell must hold the title (#) and one line below it (>), and nothing else, or the site leaves it out"


def heading_ids(path):
    "Where a link into a page may point: its headings, named as Pandoc does, and what it exports."
    seen, ids = {}, set()
    for number, text in markdown(path):
        for head in re.findall(r"^#{1,6}\s+(.+?)\s*#*$", re.sub(r"^(`{3,}|~{3,}).*?^\1[ \t]*$", "", text, flags=re.M | re.S), flags=re.M):
            if m := re.search(r"\{#([\w.-]+)[^}]*\}$", head): ids.add(m[1]); continue
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", head).replace("`", "").replace("*", "").replace("...", "").replace("--", "")
            name = re.sub(r"\s+", "-", re.sub(r"[^\w\s.-]", "", plain.lower()).strip())
            name = re.sub(r"^[^a-z]+", "", name) or "section"
            ids.add(name + (f"-{seen[name]}" if name in seen else ""))
            seen[name] = seen.get(name, 0) + 1
        for cell in () if number > 1 else json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code" and any(w[0] in EXPORT for w in directives(source(cell))): ids |= {n.lower() for n in re.findall(r"^(?:def|class) (\w+)", source(cell), re.M)}
    return ids


def links_lead_somewhere():
    "Relative links and images of the pages, the README and _quarto.yml; a link into a page must hit a heading."
    def check(where, target, base):
        file, _, anchor = target.partition("#")
        if re.match(r"[a-z][a-z+.-]*:", file): return
        to = (base/file).resolve() if file else where[1]
        if not to.exists(): yield f"{where[0]}: {target} leads nowhere"
        elif anchor and to.suffix == ".ipynb" and anchor not in heading_ids(to): yield f"{where[0]}: {target}: no heading there has this name"
    texts = [(f"nbs/{p.name}, cell {n}", p, text) for p in pages() for n, text in markdown(p)]
    if (ROOT/"README.md").exists(): texts.append(("README.md", ROOT/"README.md", (ROOT/"README.md").read_text(encoding="utf-8")))
    for name, path, text in texts:
        found = re.findall(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)", unfenced(text)) + re.findall(r"<(?:img|a)\b[^>]*?(?:src|href)=\"([^\"]+)\"", unfenced(text))
        for target in found: yield from check((name, path), target, path.parent)
        for alt, image in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", unfenced(text)):
            if not alt.strip(): yield f"{name}: the image {image} has no alternative text"
    for name in re.findall(r"href:\s*(\S+)", (ROOT/"_quarto.yml").read_text(encoding="utf-8")): yield from check(("_quarto.yml", ROOT/"_quarto.yml"), name, NBS)


def diagrams_have_alternative_text():
    for path in pages():
        for number, text in markdown(path):
            for block in re.findall(r"^```\{mermaid\}\n(.*?)^```", text, flags=re.M | re.S):
                if not re.match(r"%%\|\s*fig-alt:\s*\"[^\"\n]{30,}\"\s*\n", block): yield f"nbs/{path.name}, cell {number}: the diagram's first line must be its alternative text, %%| fig-alt: \"...\", in a sentence or two"


def figures_have_alternative_text():
    for path in pages():
        for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"], 1):
            pictured = any(kind.startswith("image/") for o in cell.get("outputs", []) for kind in o.get("data", {}))
            if pictured and not re.search(r'^#\| fig-alt: "[^"\n]{30,}"$', source(cell), flags=re.M): yield f'nbs/{path.name}, cell {number}: a cell that shows a figure begins with #| fig-alt: "..."; what is to be seen, in a sentence or two'


def markdown_reads_the_same_everywhere():
    "What Jupyter shows as a list, a table or a word in angle brackets, and Pandoc does not."
    item = re.compile(r"\s*(?:[-*+]|\d+[.)])\s+\S")
    for path in pages():
        for number, text in markdown(path):
            lines = [""] + unfenced(text).splitlines()
            for before, line in zip(lines, lines[1:]):
                where = f"nbs/{path.name}, cell {number}: {line.strip()[:60]!r}"
                if item.match(line) and before.strip() and not item.match(before) and not before.startswith((" ", "\t")): yield f"{where}: a list needs an empty line before it"
                if line.startswith("|") and before.strip() and not before.startswith("|"): yield f"{where}: a table needs an empty line before it"
                if m := re.search(r"<(?!!--|/?(?:br|img|a|sub|sup|details|summary|kbd|small|https?:)\b)[a-zA-Z]\w*>", line): yield f"{where}: {m[0]} would be taken for HTML"


def cells_of(row):
    "The cells of a table's row; a bar inside code or a formula does not end one."
    return [c.strip() for c in re.split(r"\|(?=(?:[^$`]|\$[^$]*\$|`[^`]*`)*$)", row.strip().strip("|"))]


def letter(symbol):
    "A symbol without the indices of cells, genes and clusters: x_{ij} is x, but lambda_1 is no other's lambda; c(i) is a function."
    symbol = re.sub(r"\s+", " ", symbol.strip()).replace("{ ", "{")
    return re.sub(r"\((?:[a-z])\)", "()", re.sub(r"_(?:\{([^{}]*)\}|(\w))", lambda m: "" if set(m[1] or m[2]) <= set("ijkcgdx") else f"_{m[1] or m[2]}", symbol))


def words_of(meaning):
    "The first two words that carry a meaning."
    words = re.findall(r"[a-z]+(?:-[a-z]+)*", re.split(r"[:;,(=]", re.sub(r"\$[^$]*\$|\[|\]\([^)]*\)|\*|`[^`]*`", " ", meaning.lower()))[0])
    return [w for w in words if w not in {"a", "an", "the", "of", "its", "their", "is", "that", "one", "in", "and", "each", "model"}][:2] or [meaning.lower().strip()]


def symbol_rows(path):
    "(letter, meaning, number of the cell) of the tables that begin with `letter` or `symbol`; not where the page says that they are the letters of this page only."
    for number, text in markdown(path):
        lines = text.splitlines()
        for i, head in enumerate(lines[:-1]):
            names = [c.lower() for c in cells_of(head)] if head.startswith("|") else []
            if not (len(names) > 1 and re.search(r"letter|symbol", names[0]) and names[1] == "meaning" and set(lines[i + 1]) <= set("|-: ")) or "letters of this page only" in text: continue
            for row in lines[i + 2:]:
                if not row.startswith("|"): break
                cells = cells_of(row)
                symbols = [s for part in re.findall(r"\$([^$]+)\$", cells[0]) for s in re.split(r",(?![^{]*\})", part)]
                parts = [p for p in re.split(r"[;,]| and ", re.sub(r"\([^)]*\)", lambda m: m[0].replace(",", " "), cells[1])) if p.strip()]
                for n, s in enumerate(symbols): yield letter(s), (parts[n] if len(symbols) > 1 and len(parts) >= len(symbols) else cells[1]), cells[1], number


def letters_agree_over_pages():
    "The first page to use a letter gives it its meaning; another must mean the same, or say what it does not mean: `group (not the median library size)`."
    owner = {}
    for path in pages():
        for name, meaning, whole, number in symbol_rows(path):
            first, words = owner.setdefault(name, (path.name, words_of(meaning)))
            if first != path.name and not all(w.rstrip("s") in whole.lower() for w in words):
                yield f"nbs/{path.name}, cell {number}: ${name}$ is {whole!r}, but on {first} {' '.join(words)!r}; use that word, or say \"(not the {' '.join(words)})\""


def citation_is_valid():
    import yaml
    cff = yaml.safe_load((ROOT/"CITATION.cff").read_text(encoding="utf-8"))
    if str(cff.get("cff-version")) != "1.2.0": yield "CITATION.cff: cff-version is not 1.2.0"
    for key in ("message", "title", "authors"):
        if not cff.get(key): yield f"CITATION.cff has no {key}"
    known = set("abstract authors cff-version commit contact date-released doi identifiers keywords license license-url message preferred-citation references repository repository-artifact repository-code title type url version".split())
    for key in sorted(set(cff) - known): yield f"CITATION.cff: {key} is no key of version 1.2.0 of the format"
    if str(cff.get("version")) != CFG["version"]: yield f"CITATION.cff says version {cff.get('version')}; settings.ini says {CFG['version']}"
    if cff.get("repository-code") != CFG["git_url"] or cff.get("url") != CFG["doc_host"] + CFG["doc_baseurl"]: yield "CITATION.cff names other addresses than settings.ini"


def runtime_needs_no_tools():
    "The package imports nothing that only the development set brings."
    tools = {"nbdev", "execnb", "ghapi", "fastgit", "IPython", "ipykernel", "jupyter_client", "nbformat", "nbconvert", "nbclient", "hypothesis", "pytest"}
    for path in sorted(LIB.glob("*.py")):
        for name in sorted({n.split(".")[0] for n in imports(path)} & tools): yield f"{LIB.name}/{path.name} imports {name}"


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
    for command in ([sys.executable, "-c", code], [str(script), "--help"], [str(script), "no-such-command"]):
        if command[0] == str(script) and not script.exists():
            yield f"no scnb command beside {Path(sys.executable).name}: install with pip install -e ."
            continue
        out = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment(1))
        want = 2 if command[-1] == "no-such-command" else 0
        if out.returncode != want: yield f"{' '.join(c for c in command[1:] if c != code) or 'help'}: exit {out.returncode}, expected {want}: {out.stderr.strip()[-300:]}"
        elif not want and "cluster" not in out.stdout: yield "scnb --help does not mention cluster"


def pages_have_outputs():
    for p in pages():
        code = [c for c in json.loads(p.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
        if code and not any(c["outputs"] for c in code): yield f"nbs/{p.name} has no stored output: jupyter nbconvert --to notebook --execute --inplace nbs/{p.name} stores them"


def index_names_every_page():
    index = "".join(source(c) for c in json.loads((NBS/"index.ipynb").read_text(encoding="utf-8"))["cells"])
    for p in pages():
        if p.name != "index.ipynb" and f"({p.name}" not in index: yield f"nbs/{p.name} has no row in the table of nbs/index.ipynb"


def one_version():
    text = (LIB/"__init__.py").read_text(encoding="utf-8").strip()
    if text != f'__version__ = "{CFG["version"]}"': yield f"scnb/__init__.py holds {text!r}; settings.ini says {CFG['version']}"


def constraints_pin_everything():
    lines = [l.strip() for l in (ROOT/"constraints.txt").read_text().splitlines() if l.strip() and l[0] != "#"]
    norm = lambda s: re.sub(r"[-_.]+", "-", s).lower()
    pins = {norm(l.split("==")[0]) for l in lines}
    for l in lines:
        if not re.fullmatch(r"[\w.\-]+==[\w.!\-]+", l): yield f"constraints.txt: {l!r} is not an exact public version"
    for key in ("requirements", "dev_requirements"):
        for r in CFG[key].split():
            if norm(re.split(r"[<>=!~\[]", r)[0]) not in pins: yield f"constraints.txt does not pin {r} ({key})"


CHECKS = [clean_changes_nothing, export_changes_nothing, every_module_has_a_page, readme_is_up_to_date, stored_outputs_are_clean, pages_have_outputs,
          sources_name_no_machine_path, pages_are_small, sidebar_lists_every_page, index_names_every_page, reading_order_is_import_order, imports_stay_in_cells_of_their_own,
          site_builds_up_to_quarto, site_has_known_keys, titles_stand_alone, links_lead_somewhere, diagrams_have_alternative_text, figures_have_alternative_text, markdown_reads_the_same_everywhere,
          letters_agree_over_pages, citation_is_valid, runtime_needs_no_tools, help_is_light, one_version, constraints_pin_everything]


# Those that take no time, for pages named on the command line.
QUICK = [every_module_has_a_page, stored_outputs_are_clean, pages_have_outputs, sources_name_no_machine_path, pages_are_small, sidebar_lists_every_page, index_names_every_page, reading_order_is_import_order,
         imports_stay_in_cells_of_their_own, titles_stand_alone, links_lead_somewhere, diagrams_have_alternative_text, figures_have_alternative_text, markdown_reads_the_same_everywhere, letters_agree_over_pages]


def check(f, about=()):
    "Run a check, and say what it found; `about`: only what names one of these pages."
    try: wrong = [w for w in f() if not about or any(name in w for name in about)]
    except Exception as e: wrong = [f"{type(e).__name__}: {e}"]
    print(f"{'FAIL' if wrong else 'ok  '} {f.__name__.replace('_', ' ')}", *(f"     {w}" for w in wrong), sep="\n", flush=True)
    return not wrong


def tree(on):
    "What a run must leave as it was: pages, modules, and which files lie in nbs/ (slow cells may add results)."
    keep = {str(p.relative_to(ROOT)): p.read_bytes() for p in [*pages(), *LIB.glob("*.py")]}
    skip = {"__pycache__", ".ipynb_checkpoints"} | ({"results"} if "slow" in on else set())
    return keep, {str(p.relative_to(ROOT)) for p in NBS.rglob("*") if not skip & set(p.parts)}


# ---------------------------------------------------------------- all of it
def data_found():
    folders = [Path(f) for f in os.environ.get("SCNB_DATA", "").split(os.pathsep) if f]
    return any(next(f.glob("*.h5ad"), None) for f in folders)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", nargs="*", help="run only these pages, e.g. 00_losses")
    parser.add_argument("--flags", default="", help="test flags to switch on, with commas or spaces between them")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--timeout", type=int, default=900, help="seconds for one cell")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    on = set(re.split(r"[,\s]+", args.flags.strip())) - {""}
    if on - KNOWN: parser.error(f"unknown flag {', '.join(sorted(on - KNOWN))}; known: {' '.join(sorted(KNOWN))}")
    if args.one: return print(json.dumps(run_page(Path(args.one), on, args.timeout)))

    if "slow" in on: args.timeout *= 16
    if "SCNB_DATA" not in os.environ and (ROOT.parent/"shared"/"data").is_dir(): os.environ["SCNB_DATA"] = str(ROOT.parent/"shared"/"data")       # as the Makefile does
    if os.environ.get("SCNB_DATA"): os.environ["SCNB_DATA"] = os.pathsep.join(str(Path(f).resolve()) for f in os.environ["SCNB_DATA"].split(os.pathsep) if f)
    if data_found():
        on.add("real")
        print("real data: found, cells flagged `real` run")
    else: print("real data: none found ($SCNB_DATA), cells flagged `real` are left out" if "real" not in on else "real data: none found ($SCNB_DATA), but asked for")
    if any(map(shutil.which, BROWSERS)): on.add("browser")
    print("flags on: " + (" ".join(sorted(on)) or "none"), flush=True)

    wanted = {Path(p).stem for p in args.page}
    todo = [p for p in pages() if not wanted or p.stem in wanted]
    if missing := wanted - {p.stem for p in todo}: parser.error(f"no page {', '.join(sorted(missing))} in nbs/")
    passed = failed = 0
    before = tree(on)
    with tempfile.TemporaryDirectory(prefix="scnb") as tmp, ThreadPoolExecutor(max(1, args.jobs)) as pool:
        os.environ["SCNB_CHECK_TMP"] = tmp
        began, spent = time.monotonic(), 0
        for told in pool.map(lambda p: start(p, on, args), todo):
            report(told)
            spent += told["seconds"]
            passed += told["passed"] + (told["error"] is None)
            failed += told["asserting"] - told["passed"] + (told["error"] is not None)

        print(f"pages: {(time.monotonic() - began) / 60:.1f} minutes ({spent / 60:.1f} one after the other)", flush=True)

        def a_run_changes_no_file():
            after = tree(on)
            yield from (f"{n} was changed" for n in sorted(before[0]) if before[0][n] != after[0].get(n))
            yield from (f"{n} was left behind" for n in sorted(after[1] - before[1]))

        def there_are_pages():
            if not todo: yield "nbs/ holds no notebook"
        for f in [there_are_pages, a_run_changes_no_file] + (QUICK if wanted else CHECKS):
            ok = check(f, wanted if f in QUICK else ())
            passed, failed = passed + ok, failed + (not ok)
        if wanted: print("these pages only; without a page's name all of them run, and the checks of the project as a whole")
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__": sys.exit(main())
