"""What the processes of a rehearsal share: imports and a measurement that would cost each of them two seconds."""

import torch
import torch._dynamo  # imported by the first count of FLOPs

from lib.runtime import matmul_rate

torch.set_num_threads(1)  # a process with threads cannot be forked
for precision in ("fp32", "bf16"):
    matmul_rate("cpu", precision)
