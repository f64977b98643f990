"""Compare a learner's output with the right one, and put the difference into one sentence."""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Callable

import torch


def close(a, b, tolerance: float) -> bool:
    """True if both have one type, shape and dtype, and their numbers agree within the tolerance."""
    if isinstance(b, torch.Tensor):
        return (
            isinstance(a, torch.Tensor)
            and a.shape == b.shape
            and a.dtype == b.dtype
            and torch.allclose(a.detach(), b.detach(), rtol=tolerance, atol=tolerance, equal_nan=True)
        )
    if isinstance(b, (tuple, list)):
        return (
            isinstance(a, (tuple, list))
            and len(a) == len(b)
            and all(close(x, y, tolerance) for x, y in zip(a, b, strict=True))
        )
    return a == b


def all_close(outputs: list, expected: list, tolerance: float) -> bool:
    """True if the outputs of all cases are close."""
    return all(close(a, b, tolerance) for a, b in zip(outputs, expected, strict=True))


def largest_gap(a, b) -> float:
    """The largest difference between the numbers of two outputs that `close` finds alike; 0 for all but tensors."""
    if isinstance(b, torch.Tensor):
        return float((a.detach().double() - b.detach().double()).abs().nan_to_num().max()) if b.numel() else 0.0
    return max(map(largest_gap, a, b), default=0.0) if isinstance(b, (tuple, list)) else 0.0


def same_arguments(before: tuple, after: tuple) -> bool:
    """False if a tensor among the arguments was changed in place."""
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=True) if isinstance(a, torch.Tensor))


def _own_line(error: Exception, answer: Callable) -> tuple[int, str]:
    """Number and text of the line of the learner's function (or below it) that stopped."""
    code = getattr(answer, "__code__", None)
    frames = traceback.extract_tb(error.__traceback__)
    frame = ([f for f in frames if code and f.filename == code.co_filename] or frames[-1:])[-1]
    return frame.lineno, (linecache.getline(frame.filename, frame.lineno) or frame.line or "").strip()


def is_stub(error: Exception, answer: Callable) -> bool:
    """True if the exercise still holds its `raise NotImplementedError`; torch raises that error for other reasons."""
    return isinstance(error, NotImplementedError) and (
        not error.args or "raise NotImplementedError" in _own_line(error, answer)[1]
    )


def explain_exception(error: Exception, answer: Callable) -> str:
    """One sentence: which line of the learner's function stopped, and why."""
    number, line = _own_line(error, answer)
    reason = " ".join(str(error).split())[:200].rstrip(".")
    name = getattr(answer, "__name__", "")
    if isinstance(error, TypeError) and f"{name}()" in reason and "argument" in reason:
        return f"the function does not take the arguments of the exercise: {reason}."  # the call itself failed
    advice = ""
    if "Sizes of tensors must match" in reason:  # of torch.cat and torch.stack
        advice = " To be joined, tensors must have one size along all other axes."
    elif "must match" in reason:
        advice = " A number per picture needs shape (B, 1, 1, 1) to meet (B, C, H, W)."
    return f"line {number}{f', `{line}`,' if line else ''} stopped with {type(error).__name__}: {reason}.{advice}"


def first_complaint(outputs, expected, tolerance: float) -> str | None:
    """Something wrong besides the numbers (type, shape, dtype, not-a-number), or None."""
    for out, right in zip(outputs, expected, strict=True):
        if isinstance(right, (tuple, list)):
            if not isinstance(out, (tuple, list)) or len(out) != len(right):
                return f"the function should return {len(right)} things, separated by commas."
            if complaint := first_complaint(out, right, tolerance):
                return complaint
        elif isinstance(right, torch.Tensor):
            if not isinstance(out, torch.Tensor):
                return f"the function returns a {type(out).__name__}; a torch tensor of shape {_shape(right)} is asked."
            if out.shape != right.shape:
                return (
                    f"the result has shape {_shape(out)}, but {_shape(right)} is asked: does a term broadcast, "
                    "or an axis disappear?"
                )
            if not torch.isfinite(out).all() and torch.isfinite(right).all():
                return "the result holds nan or inf: a division by zero, log(0), or exp of a large number?"
            if out.dtype != right.dtype:
                same = torch.allclose(out.detach().to(right.dtype), right.detach(), rtol=tolerance, atol=tolerance)
                return (
                    ("the numbers are right, but " if same else "") + f"the result is {_dtype(out)}, and "
                    f"{_dtype(right)} is asked: keep the dtype of the input; .to(x.dtype) where tables differ."
                )
    return None


def describe_difference(outputs, expected, tolerance: float) -> str:
    """What the numbers alone show: sign, a constant factor or shift, reverse order, or where they differ most."""
    flat = [
        (o.detach().double(), r.detach().double())
        for out, right in zip(outputs, expected, strict=True)
        for o, r in (zip(out, right, strict=True) if isinstance(right, (tuple, list)) else [(out, right)])
        if isinstance(r, torch.Tensor)
    ]

    if not flat:  # words, or plain numbers
        out, right = next((o, r) for o, r in zip(outputs, expected, strict=True) if o != r)
        return f"the answer is {out!r}, but {right!r} is right."

    slack = min(10 * tolerance, 0.01)  # else a factor would be seen in anything, where luck makes the tolerance wide

    def agree(change):
        return all(torch.allclose(change(o), r, rtol=slack, atol=slack) for o, r in flat)

    out, right = max(flat, key=lambda pair: float((pair[0] - pair[1]).abs().max()))
    if agree(torch.neg):
        return "right up to sign: which term is subtracted from which?"
    factor = float((out * right).sum() / (right * right).sum().clamp(min=1e-12))
    if abs(factor) > 1e-6 and agree(lambda o: o / factor):
        return f"right up to a constant factor: the result is {factor:.3g} times what is asked."
    if agree(lambda o: o - float((out - right).mean())):
        return f"right up to a constant: the result is {float((out - right).mean()):.3g} too large."
    if out.ndim and agree(lambda o: o.flip(0)):
        return "the right numbers in reverse order: which way does t run?"
    at = tuple(int(i) for i in torch.unravel_index((out - right).abs().argmax(), out.shape))
    where = f"at index {at} " if at else ""  # a single number has no index
    return (
        f"the numbers do not yet agree: {where}the result is {float(out[at]):.4f}, but {float(right[at]):.4f} is right."
    )


def _shape(x: torch.Tensor) -> str:
    return str(tuple(x.shape))


def _dtype(x: torch.Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
