"""What targets share when they write a class that an app calls."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection


def class_name(name: str, taken: Collection[str] = ()) -> str:
    """Return a name of a class in Kotlin, Swift and the like, made from a deployment's name.

    ``"digits-v2"`` becomes ``"DigitsV2"``; what does not begin with a letter gets ``Model`` before.

    Args:
        name: Name of the deployment.
        taken: Names that the text around it uses for something else; they get ``Model`` before.
    """
    words = re.findall(r"[A-Za-z0-9]+", name)
    title = "".join(word[:1].upper() + word[1:] for word in words) or "Model"
    return title if title[0].isalpha() and title not in taken else f"Model{title}"


__all__ = ["class_name"]
