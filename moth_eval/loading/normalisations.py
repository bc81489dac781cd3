"""How a normalisation is written: a name, or the mean and standard deviation of every channel.

`--normalisation`, side-cars and records all write it alike. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import InputError
from .naming import shown

Standards = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel, or one of either for all channels."""

PLAIN = ("unit", "minmax", "unit-bgr", "minmax-bgr")
"""Names of those that subtract nothing."""

STANDARDS: Mapping[str, Standards] = {
    "unit-imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "unit-cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "unit-cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "unit-gtsrb": ((0.3337, 0.3064, 0.3171), (0.2672, 0.2564, 0.2629)),
    "unit-svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "unit-half": ((0.5,), (0.5,)),
}
"""Well-known ones by name.

Source: ImageNet, https://docs.pytorch.org/vision/stable/models.html. CIFAR-10: mean and standard
deviation over the pixels of its training images. CIFAR-100,
https://gist.github.com/weiaicunzai/e623931921efefd4c331622c344d8151. GTSRB,
github.com/soumith/traffic-sign-detection-homework, `data.py`. SVHN,
https://huggingface.co/edadaltocg/resnet18_svhn. Half, which makes `[0, 1]` to `[-1, 1]`,
https://docs.pytorch.org/tutorials/beginner/blitz/cifar10_tutorial.html.
"""

NAMES = (*PLAIN, *STANDARDS)

CHANNELS = (1, 3)
"""What images may have."""
LARGEST = 1e3
"""Of a mean or deviation, of images between 0 and 1."""
SMALLEST_STD = 1e-4
LONGEST = 256
"""Characters of a text."""

EXPECTED = (
    f"expected one of {', '.join(NAMES)}, or M1,M2,M3/S1,S2,S3: mean and standard deviation of "
    "every channel"
)


def canonical(text: str) -> str:
    """The one way to write this normalisation: its name if it has one, else its numbers.

    Args:
        text: a name, or `M1,M2,M3/S1,S2,S3`, or `M/S` for all channels.

    Raises:
        InputError: it is neither, or its numbers are none to divide by.
    """
    text = text.strip()
    if text in NAMES:
        return text
    mean, slash, std = text.partition("/")
    try:
        if not slash or len(text) > LONGEST:
            raise ValueError("no two lists of numbers")
        return written(*([float(word) for word in one.split(",")] for one in (mean, std)))
    except ValueError:
        raise InputError(f"no normalisation {shown(text)!r}: {EXPECTED}") from None


def written(mean: Sequence[object], std: Sequence[object]) -> str:
    """The canonical text of mean and standard deviation, of every channel or one for all.

    Raises:
        InputError: they are no finite numbers within bounds, or not as many as channels.
    """
    found = _checked("mean", mean, -LARGEST), _checked("standard deviation", std, SMALLEST_STD)
    if found == ((0.0,), (1.0,)):
        return "unit"
    for name, standards in STANDARDS.items():
        if found == standards:
            return name
    return "/".join(",".join(map(_number, values)) for values in found)


def stated(value: object) -> str:
    """The canonical text of what a JSON file says: a text, or an object with `mean` and `std`.

    Raises:
        InputError: it says something else.
    """
    if isinstance(value, str):
        return canonical(value)
    if isinstance(value, dict) and value.keys() == {"mean", "std"}:
        mean, std = value["mean"], value["std"]
        if isinstance(mean, list) and isinstance(std, list):
            return written(mean, std)
    raise InputError(
        f"a normalisation of the type {type(value).__name__}: expected a name such as "
        'unit-imagenet, or {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}'
    )


def to_json(text: str) -> str | dict[str, list[float]]:
    """What a JSON file says of a canonical text; `stated` reads it back."""
    if text in NAMES:
        return text
    mean, std = numbers(text)
    return {"mean": list(mean), "std": list(std)}


def numbers(text: str) -> Standards:
    """Mean and standard deviation of a canonical text that is none of the plain ones."""
    if text in STANDARDS:
        return STANDARDS[text]
    mean, _, std = text.partition("/")
    return tuple(map(float, mean.split(","))), tuple(map(float, std.split(",")))


def _checked(what: str, values: Sequence[object], least: float) -> tuple[float, ...]:
    """The values as numbers; a single one if they are all equal."""
    if len(values) not in CHANNELS:
        raise InputError(
            f"a normalisation with {len(values)} values as {what}: expected one, or one for each "
            "of 3 channels"
        )
    found = list[float]()
    for value in values:
        # Python takes true for a number; a comparison is false for NaN.
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(
                f"a normalisation with a {type(value).__name__} as {what}: expected numbers"
            )
        if not least <= value <= LARGEST:
            raise InputError(
                f"a normalisation with the {what} {shown(value)}: expected from {least:g} to "
                f"{LARGEST:g}, of images between 0 and 1"
            )
        found.append(float(value))
    return (found[0],) if len(set(found)) == 1 else tuple(found)


def _number(value: float) -> str:
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
