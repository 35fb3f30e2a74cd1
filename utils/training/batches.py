"""How the images of an epoch are divided into batches, groups of batches and processes."""

from dataclasses import dataclass, replace

from utils.data.sampling import plan_epoch


@dataclass(frozen=True)
class BatchPlan:
    """How the images of an epoch are divided: `accumulation` batches of `batch_size` images in each of `world` processes."""

    batch_size: int
    accumulation: int = 1
    world: int = 1
    rank: int = 0

    @property
    def images_per_step(self):
        return self.batch_size * self.accumulation * self.world

    @property
    def kept(self):
        """What must be the same for a run to resume in the middle of an epoch."""
        return [self.batch_size, self.accumulation, self.world]

    def halved(self):
        """Half the batch size and twice the accumulation: the same images in a step, in half the memory."""
        return replace(self, batch_size=self.batch_size // 2, accumulation=self.accumulation * 2)

    def groups(self, order):
        """The groups of batches, one for each optimizer step, of an epoch whose images come in `order`."""
        return plan_epoch(order, self.batch_size, self.accumulation, self.rank, self.world)

    def describe(self):
        """`256 images (128 × 1 batches × 2 processes)`"""
        parts = f" ({self.batch_size} × {self.accumulation} batches × {self.world} processes)"
        return f"{self.images_per_step} images" + (parts if self.accumulation * self.world > 1 else "")
