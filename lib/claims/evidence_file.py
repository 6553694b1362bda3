"""The evidence of a notebook as one file next to its claims.json, from which every verdict can be computed again.

evidence.npz has one array per instance of a part, named claim/part/instance, exactly as it was judged. An array of few
distinct values, such as outcomes of single images, is stored as three: its distinct values in order (:values),
the bits of each entry's index into them, a plane per bit, the highest first (:bits, packed as by numpy.packbits along
the last axis), and the length of that axis (:size).
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lib.errors import OneLineError
from lib.files import named, write_atomic

NAME = "evidence.npz"
FEW = 256


def write_evidence(evidence: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]], folder: Path) -> None:
    """Write the evidence {claim: {part: {instance: array}}} of a notebook to evidence.npz in its folder, atomically.
    The same evidence gives the same bytes.
    """
    members = {}
    for claim, parts in evidence.items():
        for part, instances in parts.items():
            for instance, data in instances.items():
                members |= _members(f"{claim}/{part}/{instance}", np.asarray(data, float))
    found = io.BytesIO()
    np.savez_compressed(found, **members)
    write_atomic(folder / NAME, found.getvalue())


def _members(name: str, data: np.ndarray) -> dict[str, np.ndarray]:
    values, codes = np.unique(data, return_inverse=True)
    if not 1 < len(values) <= FEW or len(values) * 4 > data.size:
        return {name: data}
    codes = codes.reshape(data.shape).astype(np.uint8)
    planes = [codes >> bit & 1 for bit in reversed(range((len(values) - 1).bit_length()))]
    return {f"{name}:values": values, f"{name}:bits": np.packbits(planes, axis=-1),
            f"{name}:size": np.array(data.shape[-1])}


def read_evidence(folder: Path) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """The evidence in a notebook's folder, as `write_evidence` was given it. Raises FileError if evidence.npz cannot be
    read, and OneLineError if it is damaged.
    """
    path, found = folder / NAME, {}
    with named(f"{path} cannot be read"):
        content = path.read_bytes()
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as members:
            for name in members.files:
                full, _, kind = name.rpartition(":") if name.endswith((":values", ":bits", ":size")) else (name, "", "")
                if kind in ("", "bits"):
                    claim, part, instance = full.split("/", 2)
                    data = members[name] if not kind else _unpacked(*(members[f"{full}:{k}"] for k in
                                                                      ("values", "bits", "size")))
                    found.setdefault(claim, {}).setdefault(part, {})[instance] = data
    except (ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise OneLineError(f"{path} is damaged ({error}); run its notebook again") from None
    return found


def _unpacked(values: np.ndarray, bits: np.ndarray, size: np.ndarray) -> np.ndarray:
    codes = np.zeros((*bits.shape[1:-1], int(size)), int)
    for plane in np.unpackbits(bits, axis=-1, count=int(size)):
        codes = 2 * codes + plane
    return values[codes]
