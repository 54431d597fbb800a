"""A fixed number of batches, however many passes over the dataset they take."""

from collections.abc import Iterator

from torch.utils.data import BatchSampler, Sampler

from maskrcnn_benchmark.data.samplers.grouped_batch_sampler import GroupedBatchSampler


class IterationBasedBatchSampler(Sampler[list[int]]):
    """Repeats a batch sampler until iteration ``num_iterations``, beginning at ``start_iter``.

    Before each pass the sampler below is told its epoch, for which the number of the next iteration serves.

    Raises: ValueError, while iterating, if a pass yields no batch at all and the loop would never end.
    """

    def __init__(
        self, batch_sampler: BatchSampler | GroupedBatchSampler, num_iterations: int, start_iter: int = 0
    ) -> None:
        self.batch_sampler = batch_sampler
        self.num_iterations = num_iterations
        self.start_iter = start_iter

    def __iter__(self) -> Iterator[list[int]]:
        iteration = self.start_iter
        while iteration < self.num_iterations:
            self._set_epoch(iteration)
            first_of_pass = iteration
            for batch in self.batch_sampler:
                iteration += 1
                yield batch
                if iteration == self.num_iterations:
                    return
            if iteration == first_of_pass:
                raise ValueError(
                    f"one pass over the dataset yields no batch of {getattr(self.batch_sampler, 'batch_size', '?')}: "
                    "this process has fewer items than that and incomplete batches are dropped. Use a smaller batch, "
                    "fewer processes or more copies of the dataset"
                )

    def _set_epoch(self, epoch: int) -> None:
        for sampler in (self.batch_sampler, self.batch_sampler.sampler):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
                return

    def __len__(self) -> int:
        return self.num_iterations
