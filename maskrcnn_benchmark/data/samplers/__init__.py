"""Which dataset items make a batch, and in which order."""

from maskrcnn_benchmark.data.samplers.chunks import DistributedSamplerChunkByNode
from maskrcnn_benchmark.data.samplers.distributed import DistributedSampler
from maskrcnn_benchmark.data.samplers.grouped_batch_sampler import GroupedBatchSampler
from maskrcnn_benchmark.data.samplers.iteration_based_batch_sampler import IterationBasedBatchSampler

__all__ = ["DistributedSampler", "DistributedSamplerChunkByNode", "GroupedBatchSampler", "IterationBasedBatchSampler"]
