"""A fixed number of batches, however many passes over the dataset they take."""

from collections.abc import Iterator

from torch.utils.data import BatchSampler, Sampler

from maskrcnn_benchmark.data.samplers.grouped_batch_sampler import GroupedBatchSampler

MAX_EMPTY_PASSES = 100


class IterationBasedBatchSampler(Sampler[list[int]]):
    """Repeats a batch sampler until iteration ``num_iterations``, beginning at ``start_iter``.

    Before each pass the sampler below is told its epoch, for which the number of the next iteration serves. Where few
    items are shared out anew in every pass, one may leave a process without a full batch of one kind; the next order
    follows then, with the next number. As in the original, a batch beyond the last one is drawn and dropped, in another
    pass where the last one ended a pass.

    Raises: ValueError, while iterating, if MAX_EMPTY_PASSES in a row yield no batch at all.
    """

    def __init__(
        self, batch_sampler: BatchSampler | GroupedBatchSampler, num_iterations: int, start_iter: int = 0
    ) -> None:
        self.batch_sampler = batch_sampler
        self.num_iterations = num_iterations
        self.start_iter = start_iter

    def __iter__(self) -> Iterator[list[int]]:
        iteration, empty_passes = self.start_iter, 0
        while iteration <= self.num_iterations:
            self._set_epoch(iteration + empty_passes)
            first_of_pass = iteration
            for batch in self.batch_sampler:
                if iteration == self.num_iterations:
                    return
                iteration += 1
                yield batch
            empty_passes = empty_passes + 1 if iteration == first_of_pass else 0
            if empty_passes and iteration == self.num_iterations:
                return
            if empty_passes == MAX_EMPTY_PASSES:
                raise ValueError(
                    f"no pass over the dataset yields a batch of {getattr(self.batch_sampler, 'batch_size', '?')}: "
                    "this process has fewer items than that (of one orientation with ASPECT_RATIO_GROUPING), and "
                    "incomplete batches are dropped. Use a smaller batch, fewer processes or more copies of the dataset"
                )

    def _set_epoch(self, epoch: int) -> None:
        for sampler in (self.batch_sampler, self.batch_sampler.sampler):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
                return

    def __len__(self) -> int:
        return self.num_iterations
