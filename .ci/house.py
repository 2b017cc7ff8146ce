"""Counts how the house is kept. No number may get worse: .ci/counts.json holds the last ones.

    python .ci/house.py             prints the counts of this tree
    python .ci/house.py --update    stores them, if none got worse
"""
import ast
import json
import re
import sys
from functools import cache
from pathlib import Path

from check import LIB, asserts, is_exported, label, module_of, pages, source, under

STORED = Path(__file__).resolve().parent/"counts.json"
MORE_IS_BETTER = {"asserting_cells"}
OWN_CHECK = {"public_names_unused"}          # public_names_are_used names them


@cache
def code_cells(path):
    "The sources of a page's code cells."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [source(c) for c in cells if c["cell_type"] == "code"]


def words(text): return set(re.findall(r"\w+", text))


def lines_over(n):
    "Lines of code in notebooks with more than `n` characters."
    lines = (line for p in pages() for text in code_cells(p) for line in text.splitlines())
    return sum(len(line) > n for line in lines)


def shown():
    "page -> (exported cells with definitions that one of the next three cells uses, all of them)."
    found = {}
    for path in pages():
        cells, seen, total = code_cells(path), 0, 0
        for n, text in enumerate(cells):
            names = re.findall(r"^(?:def|class)\s+(\w+)", text, re.M) if is_exported(text) else []
            after = [words(t) for t in cells[n + 1:n + 4] if not is_exported(t)]
            total += bool(names)
            seen += any(name in w for name in names for w in after)
        found[label(path)] = seen, total
    return found


def modules():
    "module, as a path from the package's folder -> its text."
    files = [f for f in under(LIB, "*.py") if f.name not in ("__init__.py", "_modidx.py")]
    return {f: (LIB/f).read_text(encoding="utf-8") for f in files}


def module_lines():
    "module -> its lines."
    return {f.as_posix(): text.count("\n") for f, text in modules().items()}


def public_names():
    "module -> name in its `__all__` -> whether another module, or another's page, names it."
    texts, found = modules(), {}
    by_page = {p: (module_of(p), words("\n".join(code_cells(p)))) for p in pages()}
    by_module = {f: words(text) for f, text in texts.items()}
    for f, text in texts.items():
        listed = re.search(r"__all__ = (\[.*?\])", text, re.S)
        others = set().union(*(w for g, w in by_module.items() if g != f),
                             *(w for own, w in by_page.values() if own != f))
        names = ast.literal_eval(listed[1]) if listed else []
        found[f.as_posix()] = {name: name in others for name in names}
    return found


def unused_names():
    "Public names that no other module or page names, as module.name."
    found = public_names().items()
    dotted = lambda f: f.removesuffix(".py").replace("/", ".")
    return [f"{dotted(f)}.{name}" for f, names in found for name, used in names.items() if not used]


def counts():
    "Every number that may not get worse."
    pairs = shown().values()
    return dict(
        asserting_cells=sum(asserts(text) for p in pages() for text in code_cells(p)),
        lines_over_100=lines_over(100), lines_over_140=lines_over(140),
        definitions_not_shown=sum(total - seen for seen, total in pairs),
        public_names_unused=len(unused_names()), largest_module=max(module_lines().values()))


def worse(stored, now=None, skip=OWN_CHECK):
    "One line for each count that is worse than the stored one."
    now = now or counts()
    for name in sorted(set(now) - set(skip)):
        change = now[name] - stored.get(name, now[name])
        if name not in stored: yield f"{name} is not in {STORED.name}: run house.py --update"
        elif change < 0 if name in MORE_IS_BETTER else change > 0:
            yield f"{name.replace('_', ' ')}: {now[name]}, but {stored[name]} were stored"


def main():
    now, pairs, lines = counts(), shown(), module_lines()
    seen, total = (sum(column) for column in zip(*pairs.values()))
    names = [used for module in public_names().values() for used in module.values()]
    largest = max(lines, key=lines.get)
    print(f"shown {seen} of {total} ({seen / max(total, 1):.0%}); "
          f"asserting cells {now['asserting_cells']}; "
          f"lines over 140: {now['lines_over_140']}, over 100: {now['lines_over_100']}; "
          f"public {len(names)}, named elsewhere {sum(names) / max(len(names), 1):.0%}; "
          f"largest {largest} {lines[largest]}")
    if "--pages" in sys.argv: print(*(f"{p}: {s} of {t}" for p, (s, t) in pairs.items()), sep="\n")
    if "--unused" in sys.argv: print(*unused_names(), sep="\n")
    stored = json.loads(STORED.read_text()) if STORED.exists() else {}
    if stored and (wrong := list(worse(stored, now, skip=()))):
        print(*wrong, sep="\n")
        return 1
    if "--update" in sys.argv: STORED.write_text(json.dumps(now, indent=1) + "\n")


if __name__ == "__main__": sys.exit(main())
