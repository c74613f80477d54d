"""Two small networks for small pictures (8 pixels and up), by width and depth."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SmallConvNet", "SmallResNet"]

STAGES = 3


def _conv(
    inputs: int, outputs: int, stride: int = 1, kernel: int = 3, groups: int = 1
) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


class BasicBlock(nn.Module):
    """Two convolutions and a short cut (He et al. 2016, figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                _conv(inputs, outputs, stride, kernel=1), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H/stride, W/stride)."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """A ResNet of three stages with ``width``, 2 ``width``, 4 ``width`` channels.

    Args:
        channels: input channels.
        num_outputs: size of the head.
        width: channels of the first stage.
        depth: blocks per stage; 3 with width 16 is ResNet-20 (He et al. 2016, section 4.2).
        dropout: before the head.
    """

    def __init__(
        self, channels: int, num_outputs: int, width: int = 16, depth: int = 2, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(channels, width), nn.BatchNorm2d(width), nn.ReLU(True))
        blocks: list[nn.Module] = []
        inputs = width
        for stage in range(STAGES):
            outputs = width << stage
            for block in range(depth):
                stride = 2 if stage and block == 0 else 1
                blocks.append(BasicBlock(inputs, outputs, stride))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(inputs, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, num_outputs)."""
        features = self.blocks(self.stem(x)).mean(dim=(2, 3))
        logits: Tensor = self.head(self.dropout(features))
        return logits


class SmallConvNet(nn.Module):
    """Depthwise-separable convolutions (Howard et al. 2017, section 3.1) in three stages.

    The stem halves the picture where it has 16 pixels or more. Width 16 and depth 1 make about 7k
    parameters.

    Args:
        channels: input channels.
        num_outputs: size of the head.
        width: channels of the first stage; doubled by each later one.
        depth: separable convolutions per stage.
        dropout: before the head.
        edge: pixels of the picture's edge.
    """

    def __init__(
        self,
        channels: int,
        num_outputs: int,
        width: int = 16,
        depth: int = 1,
        dropout: float = 0.0,
        edge: int = 32,
    ) -> None:
        super().__init__()
        stride = 2 if edge >= 16 else 1
        self.stem = nn.Sequential(
            _conv(channels, width, stride), nn.BatchNorm2d(width), nn.ReLU(True)
        )
        layers: list[nn.Module] = []
        inputs = width
        for stage in range(STAGES):
            outputs = width << stage
            for block in range(depth):
                step = 2 if stage and block == 0 else 1
                layers += [
                    _conv(inputs, inputs, step, groups=inputs),
                    nn.BatchNorm2d(inputs),
                    nn.ReLU(True),
                    _conv(inputs, outputs, kernel=1),
                    nn.BatchNorm2d(outputs),
                    nn.ReLU(True),
                ]
                inputs = outputs
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(inputs, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, num_outputs)."""
        features = self.features(self.stem(x)).mean(dim=(2, 3))
        logits: Tensor = self.head(self.dropout(features))
        return logits
