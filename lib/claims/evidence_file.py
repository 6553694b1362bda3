"""The evidence of a notebook as one file next to its claims.json, from which every verdict can be computed again.

evidence.npz has one array per instance of a part, named claim/part/instance, exactly as it was judged (one per set of
images, :set0, :set1 and so on, if there are several). An array of few distinct values, such as outcomes of single
images, is stored as three: its distinct values in order (:values), the bits of each entry's index into them, a plane
per bit, the highest first (:bits, packed as by numpy.packbits along the last axis), and the length of that axis
(:size). `statistics.Moments` are stored as their fields (:means, :images, :variance).
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from lib.errors import OneLineError
from lib.files import named, write_atomic
from lib.statistics import Moments

NAME = "evidence.npz"
FEW = 256
# of an instance, perhaps of one set of images, and perhaps one of several arrays
MEMBER = re.compile(r"(.*?)(?::set(\d+))?(?::(values|bits|size|means|images|variance))?", re.DOTALL)


def write_evidence(evidence: Mapping[str, Mapping[str, Mapping]], folder: Path) -> None:
    """Write the evidence {claim: {part: {instance: data}}} of a notebook to evidence.npz in its folder, atomically. The
    data are as `statistics.estimate` takes them. The same evidence gives the same bytes.
    """
    members = {}
    for claim, parts in evidence.items():
        for part, instances in parts.items():
            for instance, data in instances.items():
                name = f"{claim}/{part}/{instance}"
                if isinstance(data, tuple):
                    for number, one in enumerate(data):
                        members |= _members(f"{name}:set{number}", one)
                else:
                    members |= _members(name, data)
    found = io.BytesIO()
    np.savez_compressed(found, **members)
    write_atomic(folder / NAME, found.getvalue())


def _members(name: str, data: np.ndarray | Moments) -> dict[str, np.ndarray]:
    if isinstance(data, Moments):
        return {f"{name}:{field}": np.asarray(value) for field, value in asdict(data).items()}
    data = np.asarray(data, float)
    values, codes = np.unique(data, return_inverse=True)
    if not 1 < len(values) <= FEW or len(values) * 4 > data.size:
        return {name: data}
    codes = codes.reshape(data.shape).astype(np.uint8)
    planes = [codes >> bit & 1 for bit in reversed(range((len(values) - 1).bit_length()))]
    return {f"{name}:values": values, f"{name}:bits": np.packbits(planes, axis=-1),
            f"{name}:size": np.array(data.shape[-1])}


def read_evidence(folder: Path) -> dict[str, dict[str, dict]]:
    """The evidence in a notebook's folder, as `write_evidence` was given it. Raises FileError if evidence.npz cannot be
    read, and OneLineError if it is damaged.
    """
    path, found = folder / NAME, {}
    with named(f"{path} cannot be read"):
        content = path.read_bytes()
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as members:
            for member in members.files:
                name, number, kind = MEMBER.fullmatch(member).groups()
                found.setdefault(name, {}).setdefault(number, {})[kind] = members[member]
        evidence = {}
        for name, sets in found.items():
            claim, part, instance = name.split("/", 2)
            data = tuple(_data(**{kind or "whole": array for kind, array in one.items()}) for one in sets.values())
            evidence.setdefault(claim, {}).setdefault(part, {})[instance] = data[0] if None in sets else data
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise OneLineError(f"{path} is damaged ({error}); run its notebook again") from None
    return evidence


def _data(whole=None, values=None, bits=None, size=None, means=None, images=None, variance=None):
    if whole is not None:
        return whole
    if means is not None:
        return Moments(means, int(images), float(variance))
    codes = np.zeros((*bits.shape[1:-1], int(size)), int)
    for plane in np.unpackbits(bits, axis=-1, count=int(size)):
        codes = 2 * codes + plane
    return values[codes]
