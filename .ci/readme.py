"""Writes README.md from nbs/index.ipynb, outputs as stored. Quarto is not needed."""
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
NOTE = "<!-- Made from nbs/index.ipynb by `make readme`: edit there, not here. -->\n\n"
DIRECTIVE = re.compile(r"^#\|.*\n?", re.M)


def directives(cell):
    "The words after `#|`, one list for each line."
    return [d.split() for d in re.findall(r"^#\|[ \t]*(.+)$", cell.source, re.M)] if cell.cell_type == "code" else []


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


def render(notebook=ROOT/"nbs"/"index.ipynb", folder="nbs"):
    "README text of a notebook that lies in `folder`."
    nb = nbformat.read(notebook, as_version=4)
    nb.metadata["language_info"] = {"name": "python"}            # nbdev_clean takes it out; it names the language of the code blocks
    nb.cells = [c for c in map(visible, nb.cells) if c is not None]
    text, resources = MarkdownExporter().from_notebook_node(nb)
    if resources.get("outputs"): raise SystemExit("README: the index page has image outputs; link to a page that shows them instead")
    text = re.sub(r"```\{mermaid\}\n(.*?)```", mermaid, text, flags=re.S)
    text = re.sub(r"(\]\()(?![a-z]+:|#|/)([^)\s]+\.ipynb)", rf"\1{folder}/\2", text)       # links between pages
    text = re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+$", "", text, flags=re.M))
    return NOTE + text.strip() + "\n"


if __name__ == "__main__":
    (ROOT/"README.md").write_text(render(), encoding="utf-8")
    print("README.md written")
