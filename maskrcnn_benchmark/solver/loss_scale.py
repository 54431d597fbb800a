"""The dynamic scale of a loss, whose gradients would be too small for 16 bits."""

import torch
from torch import Tensor
from torch.optim import Optimizer

from maskrcnn_benchmark.solver.gradient_clipping import Gradients


class LossScaler(torch.amp.GradScaler):
    """torch.amp.GradScaler, without its loop over every gradient where all are alike."""

    def _unscale_grads_(
        self, optimizer: Optimizer, inv_scale: Tensor, found_inf: Tensor, allow_fp16: bool
    ) -> dict[torch.device, Tensor]:
        gradients, are_alike, _ = Gradients.of(optimizer)
        is_simple = are_alike and gradients[0].device == found_inf.device
        if not is_simple or (gradients[0].dtype is torch.float16 and not allow_fp16):
            return super()._unscale_grads_(optimizer, inv_scale, found_inf, allow_fp16)
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, found_inf, inv_scale)
        return {found_inf.device: found_inf}
