"""A small BERT that tells Python code from prose, in the layout of the Hugging Face cache.

Run this file to train it on the sources of Python's own standard library, which takes seconds,
and to write, below the directory given:

.. code-block:: text

    hub/models--bert-base-cased/    model and tokenizer, as `hf download` would place them
    samples.npz                     lines that it was not trained on, as token ids, with labels

With ``HF_HOME`` set to that directory, lepton finds it by name. It has the name and the
architecture of the real one, and none of its size: nothing can be downloaded in a test.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import os
from pathlib import Path

import numpy as np
import torch

NAME = "bert-base-cased"
MODULES = (
    "argparse", "ast", "bdb", "calendar", "cmd", "configparser", "csv", "datetime", "decimal",
    "difflib", "doctest", "fractions", "functools", "gettext", "glob", "heapq", "inspect", "locale",
    "mailbox", "optparse", "pathlib", "pdb", "pickle", "plistlib", "pprint", "random", "shelve",
    "shutil", "smtplib", "statistics", "string", "subprocess", "tarfile", "tempfile", "textwrap",
    "threading", "trace", "traceback", "typing", "unittest.case", "unittest.mock", "zipfile",
)  # fmt: skip
LENGTH = 24


def lines_of(source: str) -> tuple[set[str], set[str]]:
    """Return the lines of docstrings, and the other lines that are no comment."""
    prose: set[str] = set()
    numbers: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            continue
        text = ast.get_docstring(node)
        if text is None:
            continue
        first = node.body[0]
        numbers |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
        prose |= {line.strip() for line in text.splitlines() if ">>>" not in line}
    code = {
        line.strip()
        for number, line in enumerate(source.splitlines(), 1)
        if number not in numbers and not line.strip().startswith("#")
    }
    return prose, code - prose


def read_lines() -> tuple[list[str], np.ndarray]:
    """Return lines of prose (0) and of code (1), as many of each."""
    prose: set[str] = set()
    code: set[str] = set()
    for name in MODULES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin and Path(spec.origin).is_file():
            found = lines_of(Path(spec.origin).read_text(encoding="utf-8"))
            prose |= found[0]
            code |= found[1]
    kinds = [sorted(t for t in kind if len(t) > 15) for kind in (prose, code)]
    rng = np.random.default_rng(0)
    count = min(2000, *map(len, kinds))
    chosen = [[kind[i] for i in rng.choice(len(kind), count, replace=False)] for kind in kinds]
    return [*chosen[0], *chosen[1]], np.repeat([0, 1], count)


def make_tokenizer(texts: list[str], folder: Path) -> object:
    """Learn word pieces from the lines and save them as a BERT tokenizer."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizer

    learned = BertWordPieceTokenizer(lowercase=False)
    learned.train_from_iterator(texts, vocab_size=2000, min_frequency=3, show_progress=False)
    learned.save_model(str(folder))
    tokenizer = BertTokenizer(str(folder / "vocab.txt"), do_lower_case=False)
    tokenizer.save_pretrained(folder)
    return tokenizer


def train(home: Path, epochs: int = 3, seed: int = 0) -> float:
    """Train, write the model and samples below *home*, and return the accuracy on the samples."""
    from transformers import BertConfig, BertForSequenceClassification

    repository = home / "hub" / f"models--{NAME}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)

    texts, labels = read_lines()
    order = np.random.default_rng(seed).permutation(len(texts))
    seen, held = order[: len(order) * 4 // 5], order[len(order) * 4 // 5 :]
    tokenizer = make_tokenizer([texts[i] for i in seen], snapshot)
    tokens = tokenizer(
        texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
    )
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # too small to share: on a busy machine more threads wait for minutes
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=2000, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=256, max_position_embeddings=64,
            id2label={0: "prose", 1: "code"}, label2id={"prose": 0, "code": 1},
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    wanted = torch.from_numpy(labels)
    model.train()
    for _ in range(epochs):
        for rows in torch.from_numpy(seen)[torch.randperm(len(seen))].split(64):
            optimizer.zero_grad()
            batch = {name: value[rows] for name, value in tokens.items()}
            model(**batch, labels=wanted[rows]).loss.backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        held_tokens = {name: value[torch.from_numpy(held)] for name, value in tokens.items()}
        right = model(**held_tokens).logits.argmax(1).numpy() == labels[held]
    model.save_pretrained(snapshot)
    arrays = {name: value.numpy() for name, value in held_tokens.items()}
    np.savez(home / "samples.npz", **arrays, labels=labels[held])
    return float(right.mean())


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("home", type=Path, nargs="?", default=Path("hf-home"))
    into = parser.parse_args().home.resolve()
    print(f"accuracy on {into.name}/samples.npz: {train(into):.1%}")
