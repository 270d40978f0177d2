"""Transposed convolutions of every kind: small layers with the shape of an input."""

from torch import nn

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "stride 1": (nn.ConvTranspose2d(3, 4, 3), (2, 3, 5, 6)),
    "padded": (nn.ConvTranspose2d(3, 4, (3, 2), padding=(2, 1)), (2, 3, 5, 6)),
    "generator": (nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1), (3, 4, 5, 4)),
    "output padding": (nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=(1, 0)), (3, 4, 5, 4)),
    "much output padding": (nn.ConvTranspose2d(3, 2, 2, stride=5, output_padding=4), (2, 3, 3, 2)),
    "patches": (nn.ConvTranspose2d(4, 3, 2, stride=2), (3, 4, 3, 4)),
    "gaps": (nn.ConvTranspose2d(4, 3, (1, 2), stride=(3, 4)), (3, 4, 3, 4)),
    "uneven": (nn.ConvTranspose2d(2, 3, (5, 7), stride=(3, 2), padding=(1, 3)), (2, 2, 6, 5)),
    "dilated": (nn.ConvTranspose2d(2, 3, 3, dilation=(2, 3), padding=1), (2, 2, 4, 5)),
    "dilated and strided": (nn.ConvTranspose2d(2, 3, (3, 4), stride=(2, 3), dilation=(3, 2), padding=2), (2, 2, 5, 4)),
    "common divisor": (nn.ConvTranspose2d(2, 3, 4, stride=(4, 6), dilation=(2, 4), padding=(1, 2)), (2, 2, 4, 5)),
    "dilated by the stride": (nn.ConvTranspose2d(2, 3, 3, stride=2, dilation=2, output_padding=1), (2, 2, 4, 5)),
    "groups": (nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2, bias=False), (2, 6, 4, 5)),
    "depthwise": (nn.ConvTranspose2d(3, 6, 4, stride=2, padding=1, groups=3), (2, 3, 4, 5)),
    "latent code": (nn.ConvTranspose2d(6, 4, 4), (9, 6, 1, 1)),
    "few codes": (nn.ConvTranspose2d(6, 4, 4), (3, 6, 1, 1)),
    "cropped code": (nn.ConvTranspose2d(6, 4, (4, 3), padding=1, dilation=(1, 2)), (9, 6, 1, 1)),
    "code in a line": (nn.ConvTranspose2d(4, 3, 3, stride=(1, 2)), (5, 4, 1, 6)),
    "code with output padding": (nn.ConvTranspose2d(2, 3, 2, stride=8, output_padding=7, padding=3), (5, 2, 1, 1)),
    "few rows": (nn.ConvTranspose2d(24, 3, 3, stride=2), (1, 24, 2, 1)),
    "signal": (nn.ConvTranspose1d(3, 4, 8, stride=3, padding=2), (4, 3, 9)),
    "signal without a batch": (nn.ConvTranspose1d(3, 4, 5, stride=2), (3, 9)),
    "volume": (nn.ConvTranspose3d(2, 3, (4, 3, 2), stride=2, padding=(1, 1, 0), output_padding=(0, 1, 0)), (2, 2, 3, 2, 4)),
    "volume, groups": (nn.ConvTranspose3d(4, 2, 2, stride=(1, 2, 3), dilation=(2, 1, 1), groups=2), (2, 4, 3, 2, 2)),
}  # fmt: skip
