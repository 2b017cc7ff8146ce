"""Writes README.md from nbs/index.ipynb, outputs as stored. Quarto is not needed."""
import posixpath
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
NOTE = "<!-- Made from nbs/index.ipynb by `make readme`: edit there, not here. -->\n\n"
DIRECTIVE = re.compile(r"^#\|.*\n?", re.M)


def directives(cell):
    "The words after `#|`, one list for each line."
    return ([d.split() for d in re.findall(r"^#\|[ \t]*(.+)$", cell.source, re.M)]
        if cell.cell_type == "code" else [])


def visible(cell):
    "The cell as a reader sees it on the site, or None where the site leaves it out."
    words = directives(cell)
    if any(w[0] in ("hide", "default_exp") for w in words): return None
    if cell.cell_type == "code":
        if ["echo:", "false"] in words:
            cell.metadata["transient"] = {"remove_source": True}
        if ["output:", "false"] in words: cell.outputs = []
        cell.source = DIRECTIVE.sub("", cell.source)
        if not cell.source.strip() and not cell.outputs: return None
    return cell


def mermaid(block):
    "A Quarto diagram as GitHub draws it; the alternative text goes into the diagram."
    lines = block[1].strip().splitlines()
    alt = [m[1].strip().strip('"') for l in lines if (m := re.match(r"%%\|\s*fig-alt:\s*(.+)", l))]
    lines = [l for l in lines if not l.startswith("%%|")]
    lines[1:1] = [f"  accDescr: {a}" for a in alt]
    return "\n".join(["```mermaid", *lines, "```"])


IMAGE = r"[^)\s]+\.(?:png|svg|jpe?g|gif|webp)"
HERE = r"(?![a-z]+:|#|/)"                                        # a link to a file beside the page


def check_images(text, beside):
    "The page shows pictures as files of nbs/images/, with alternative text: GitHub needs both."
    for alt, target in re.findall(r"!\[([^\]]*)\]\(\s*([^)\s]+)", text):
        if re.match(r"https?:", target): continue
        if not target.startswith("images/") or not (beside/target).is_file():
            raise SystemExit(f"README: {target} is no file of nbs/images/")
        if not alt.strip(): raise SystemExit(f"README: {target} has no alternative text")


def render(notebook=ROOT/"nbs"/"index.ipynb", folder="nbs"):
    "README text of a notebook that lies in `folder`."
    nb = nbformat.read(notebook, as_version=4)
    # nbdev_clean takes it out; it names the language of the code blocks
    nb.metadata["language_info"] = {"name": "python"}
    nb.cells = [c for c in map(visible, nb.cells) if c is not None]
    text, resources = MarkdownExporter().from_notebook_node(nb)
    if resources.get("outputs"):
        raise SystemExit("README: the index page has image outputs; show files of nbs/images/")
    check_images(text, Path(notebook).parent)
    text = re.sub(r"```\{mermaid\}\n(.*?)```", mermaid, text, flags=re.S)
    text = re.sub(r"(!\[[^\]]*\]\([^)]*\))\{[^}]*\}", r"\1", text)      # Quarto's width
    moved = lambda m: m[1] + posixpath.normpath(f"{folder}/{m[2]}")
    text = re.sub(rf"(\]\(){HERE}([^)\s]+\.ipynb|{IMAGE})", moved, text)
    text = re.sub(rf'(<img\b[^>]*?src="){HERE}([^"]+)', moved, text)
    text = re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+$", "", text, flags=re.M))
    return NOTE + text.strip() + "\n"


if __name__ == "__main__":
    (ROOT/"README.md").write_text(render(), encoding="utf-8")
    print("README.md written")
