"""The whole check: every page of nbs/ run from top to bottom, then what must hold of the project as a whole.

    python .ci/check.py [--flags slow,net] [--jobs 2] [--threads 1] [PAGE ...]

Each page runs in a fresh kernel with nbs/ as its working folder; nothing it prints is stored. Cells that carry a test flag
(`tst_flags` in settings.ini) run only when all their flags are on; `real` is on when $SCNB_DATA names a folder with data.
The last line counts pages, asserting cells and project checks. With PAGEs named, only these run.
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
    "`run_page` in a subprocess; a crash of it is told like any other failure."
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
    print(f"{'FAIL' if told['error'] else 'ok  '} {told['page']:28s} {told['passed']:3d} of {told['asserting']} asserting cells" + (f"; not run: {skipped}" if skipped else ""), flush=True)
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


CHECKS = [clean_changes_nothing, export_changes_nothing, every_module_has_a_page, readme_is_up_to_date, stored_outputs_are_clean,
          sources_name_no_machine_path, pages_are_small, sidebar_lists_every_page, reading_order_is_import_order, imports_stay_in_cells_of_their_own,
          site_builds_up_to_quarto, runtime_needs_no_tools, help_is_light, one_version, constraints_pin_everything]


def check(f):
    try: wrong = list(f())
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
    if os.environ.get("SCNB_DATA"): os.environ["SCNB_DATA"] = os.pathsep.join(str(Path(f).resolve()) for f in os.environ["SCNB_DATA"].split(os.pathsep) if f)
    if data_found():
        on.add("real")
        print("real data: found, cells flagged `real` run")
    else: print("real data: none found ($SCNB_DATA), cells flagged `real` are left out" if "real" not in on else "real data: none found ($SCNB_DATA), but asked for")
    print("flags on: " + (" ".join(sorted(on)) or "none"), flush=True)

    wanted = {Path(p).stem for p in args.page}
    todo = [p for p in pages() if not wanted or p.stem in wanted]
    if missing := wanted - {p.stem for p in todo}: parser.error(f"no page {', '.join(sorted(missing))} in nbs/")
    passed = failed = 0
    before = tree(on)
    with tempfile.TemporaryDirectory(prefix="scnb") as tmp, ThreadPoolExecutor(max(1, args.jobs)) as pool:
        os.environ["SCNB_CHECK_TMP"] = tmp
        for told in pool.map(lambda p: start(p, on, args), todo):
            report(told)
            passed += told["passed"] + (told["error"] is None)
            failed += told["asserting"] - told["passed"] + (told["error"] is not None)

        def a_run_changes_no_file():
            after = tree(on)
            yield from (f"{n} was changed" for n in sorted(before[0]) if before[0][n] != after[0].get(n))
            yield from (f"{n} was left behind" for n in sorted(after[1] - before[1]))

        def there_are_pages():
            if not todo: yield "nbs/ holds no notebook"
        for f in [there_are_pages, a_run_changes_no_file] + ([] if wanted else CHECKS):
            ok = check(f)
            passed, failed = passed + ok, failed + (not ok)
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__": sys.exit(main())
