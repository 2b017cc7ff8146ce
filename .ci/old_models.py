"""Models saved by an earlier version must load and answer as they did.

    python .ci/old_models.py          loads each nbs/fixtures/model-*; one line for each fault
    python .ci/old_models.py make     trains and saves them anew, with the scnb that is on the path

The folders that lie there were made by version 0.1.0 and stay; later ones go beside them.
"""
import hashlib
import importlib
import json
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent.parent/"nbs"/"fixtures"
ROWS = 3                                      # cells whose values are stored
CELLS = dict(n_cells=150, n_genes=60, n_groups=3, n_batches=2, seed=5)
SMALL = dict(max_epochs=5, batch_size=32, seed=0, device="cpu", progress=False)

# name -> module, class, simulator, its arguments, those of the class, methods that answer
MODELS = {
    "dca": ("dca", "DCA", "simulate", CELLS, dict(dims=(16, 8)), ("transform", "denoise")),
    "scdeepcluster": ("scdeepcluster", "ScDeepCluster", "simulate", CELLS,
                      dict(dims=(16, 8), n_clusters=3, finetune_epochs=2, n_top_genes=50),
                      ("transform", "predict", "predict_proba")),
    "vae": ("vae_norms", "VAE", "simulate", CELLS, dict(n_latent=4, n_hidden=16, batch_key="batch"),
            ("transform", "reconstruct")),
    "cscgan": ("cscgan", "CscGAN", "simulate", CELLS,
               dict(label_key="group", hidden=(16,), critic=(16, 8), n_latent=4, n_profiles=6),
               ("transform",)),
    "contrastivevi": ("contrastivevi", "ContrastiveVI", "simulate_contrastive",
                      dict(n_cells=150, n_genes=60, seed=5),
                      dict(condition_key="condition", control="control", n_salient=3,
                           n_background=4, n_hidden=16),
                      ("transform",)),
}


def simulated(name, given):
    "Cells of the simulator called `name`."
    return getattr(importlib.import_module("scnb.data"), name)(**given)


def dense(x): return np.asarray(x.toarray() if hasattr(x, "toarray") else x)


def digest(x):
    "A hash of counts."
    return hashlib.sha256(dense(x).astype("<i8").tobytes()).hexdigest()[:16]


def summary(value):
    "What is stored of an answer: its shape, its first rows, and the mean of all rows."
    rounded = lambda x: np.round(np.asarray(x, float), 6).tolist()
    return dict(shape=list(value.shape), rows=rounded(value[:ROWS]), mean=rounded(value.mean(0)))


def answers(model, adata, methods):
    "method -> what the model says of all cells, as an array."
    return {name: dense(getattr(model, name)(adata)) for name in methods}


def make(folder=FOLDER):
    "Train, save and store what each says."
    version = importlib.import_module("scnb").__version__
    for name, (module, cls, simulator, given, params, methods) in MODELS.items():
        adata = simulated(simulator, given)
        made = getattr(importlib.import_module(f"scnb.{module}"), cls)(**params)
        model = made.fit(adata, **SMALL)
        to = folder/f"model-{version}-{name}"
        model.save(to, overwrite=True)
        expected = dict(version=version, simulator=simulator, cells=given, counts=digest(adata.X))
        found = answers(model, adata, methods)
        expected["answers"] = {k: summary(v) for k, v in found.items()}
        (to/"expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def faults(folder):
    "What is wrong with the model in `folder`, one line each."
    expected = json.loads((folder/"expected.json").read_text())
    adata = simulated(expected["simulator"], expected["cells"])
    if digest(adata.X) != expected["counts"]:
        yield f"{folder.name}: {expected['simulator']} gives other counts than it did"
        return
    try: from scnb.model import load_model
    except ImportError: from scnb.train import load_model
    try: found = answers(load_model(folder), adata, expected["answers"])
    except Exception as e:
        yield f"{folder.name}: {type(e).__name__}: {e}"
        return
    for name, value in found.items():
        here, want = summary(value), expected["answers"][name]
        if here["shape"] != want["shape"]:
            yield f"{folder.name}: {name} gives shape {here['shape']}, not {want['shape']}"
        elif not all(np.allclose(here[k], want[k], rtol=1e-5, atol=1e-5) for k in ("rows", "mean")):
            off = np.abs(np.array(here["rows"]) - np.array(want["rows"])).max()
            yield f"{folder.name}: {name} gives other values, off by {off:.2g} in the first rows"


def main():
    if sys.argv[1:] == ["make"]: return make()
    folders = sorted(FOLDER.glob("model-*"))
    wrong = [f for folder in folders for f in faults(folder)]
    wrong += [] if folders else [f"{FOLDER} holds no model"]
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return bool(wrong)


if __name__ == "__main__": sys.exit(main())
