"""Whether a device multiplies correctly: products of small integers, which float32 represents exactly."""

import torch
from torch import Tensor

# Odd sizes, so that kernels also run the code after their main loop. The largest sum is 64 * 300, far below 2**24.
_SIZES = ((1, 1, 1), (7, 300, 5), (64, 64, 64), (129, 257, 65))


def wrong_products(device: torch.device) -> list[str]:
    """One phrase for each product that is not exact."""
    generator = torch.Generator().manual_seed(0)

    def whole(*shape: int) -> Tensor:
        return torch.randint(-8, 9, shape, generator=generator)

    found = []
    for n, k, m in _SIZES:
        a, b = whole(n, k), whole(k, m)
        exact = (a[:, :, None] * b[None]).sum(1)  # in integers, without a matrix product
        for dtype in (torch.float32, torch.float64):
            if device.type == "mps" and dtype == torch.float64:
                continue  # not supported
            found += _compare(
                f"{n}x{k} times {k}x{m} in {dtype}".replace("torch.", ""),
                torch.nn.functional.linear(a.to(device, dtype), b.t().to(device, dtype)),
                exact,
            )
    x, kernel = whole(3, 5, 9, 9), whole(6, 5, 3, 3)
    windows = x.unfold(2, 3, 1).unfold(3, 3, 1)  # (3, 5, 7, 7, 3, 3)
    exact = (windows[:, None] * kernel[None, :, :, None, None]).sum((2, 5, 6))
    found += _compare(
        "3x3 convolution", torch.nn.functional.conv2d(x.float().to(device), kernel.float().to(device)), exact
    )
    return found


def _compare(what: str, result: Tensor, exact: Tensor) -> list[str]:
    wrong = int((result.cpu() != exact).sum())
    return [f"{what}: {wrong} of {exact.numel()} values are wrong"] if wrong else []
