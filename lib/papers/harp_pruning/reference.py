"""Published numbers, to compare with ours. None is from HARP's paper, whose tables could not be obtained.

All are shares of test images at linf 8/255. `BENCHMARK`, `CHANNELS`: the README of AdversarialPruningBenchmark (arXiv
2409.01249), whose authors evaluated checkpoints. HARP's checkpoints were trained in another way than HYDRA's, so
differences between rows are not due to pruning alone. `UNIFORM`: raw results of 2022 by HARP's group
(intellisec/heracles), with uniform rates.
"""

from __future__ import annotations

# data, network, method -> keep: clean accuracy, robust under AutoAttack
BENCHMARK = {
    ("CIFAR-10", "VGG-16", "HARP"): {0.1: (0.8070, 0.4283), 0.05: (0.8026, 0.4121), 0.01: (0.7942, 0.4202)},
    ("CIFAR-10", "VGG-16", "HYDRA"): {0.1: (0.7831, 0.4381), 0.05: (0.7658, 0.4261), 0.01: (0.7059, 0.3556)},
    ("CIFAR-10", "VGG-16", "R-ADMM"): {0.1: (0.7476, 0.3992), 0.05: (0.7267, 0.3844), 0.01: (0.5769, 0.3130)},
    ("CIFAR-10", "VGG-16", "MAD"): {0.1: (0.7209, 0.3980), 0.05: (0.7045, 0.3810), 0.01: (0.4335, 0.2590)},
    ("CIFAR-10", "ResNet-18", "HARP"): {0.1: (0.8338, 0.4540), 0.05: (0.8338, 0.4569), 0.01: (0.8311, 0.4550)},
    ("CIFAR-10", "ResNet-18", "HYDRA"): {0.1: (0.7674, 0.4334), 0.05: (0.7616, 0.4245), 0.01: (0.7221, 0.3880)},
    ("CIFAR-10", "ResNet-18", "R-ADMM"): {0.1: (0.8054, 0.4368), 0.05: (0.7933, 0.4256), 0.01: (0.7117, 0.3721)},
    ("CIFAR-10", "ResNet-18", "MAD"): {0.1: (0.7367, 0.4110), 0.05: (0.7070, 0.3898), 0.01: (0.5890, 0.2926)},
    ("SVHN", "VGG-16", "HARP"): {0.1: (0.9269, 0.4400), 0.05: (0.9225, 0.4417), 0.01: (0.9060, 0.4436)},
    ("SVHN", "VGG-16", "HYDRA"): {0.1: (0.8789, 0.4585), 0.05: (0.8795, 0.4457), 0.01: (0.8085, 0.4030)},
    ("SVHN", "VGG-16", "R-ADMM"): {0.1: (0.6225, 0.4440), 0.05: (0.5224, 0.4299), 0.01: (0.6491, 0.3791)},
    ("SVHN", "VGG-16", "MAD"): {0.1: (0.8942, 0.3746), 0.05: (0.8640, 0.2490)},
    ("SVHN", "ResNet-18", "HARP"): {0.1: (0.9296, 0.4539), 0.05: (0.9275, 0.4595), 0.01: (0.9338, 0.3442)},
    ("SVHN", "ResNet-18", "HYDRA"): {0.1: (0.9095, 0.4412), 0.05: (0.8991, 0.4529), 0.01: (0.8571, 0.3420)},
}
# HARP with channels pruned. data, network -> share of channels kept: clean, AutoAttack
CHANNELS = {
    ("CIFAR-10", "VGG-16"): {0.5: (0.7670, 0.4001), 0.25: (0.7361, 0.3914), 0.1: (0.6645, 0.3562)},
    ("CIFAR-10", "ResNet-18"): {0.5: (0.7738, 0.4273), 0.25: (0.8006, 0.4209), 0.1: (0.7788, 0.4159)},
    ("SVHN", "VGG-16"): {0.5: (0.9153, 0.4410), 0.25: (0.8906, 0.4245), 0.1: (0.8789, 0.3925)},
    ("SVHN", "ResNet-18"): {0.5: (0.9172, 0.4582), 0.25: (0.9207, 0.4680), 0.1: (0.9103, 0.4525)},
}
# data, network, method -> keep: clean, PGD-10, PGD-20, CW; of SVHN balanced accuracies
UNIFORM = {
    ("CIFAR-10", "VGG-16", "HYDRA"): {0.1: (0.7751, 0.4566, 0.4457, 0.4324), 0.01: (0.6399, 0.3940, 0.3886, 0.3634)},
    ("CIFAR-10", "VGG-16", "R-ADMM"): {0.1: (0.7541, 0.4437, 0.4333, 0.4128), 0.01: (0.4740, 0.3110, 0.3085, 0.3024)},
    ("CIFAR-10", "ResNet-18", "HYDRA"): {0.1: (0.7814, 0.4675, 0.4590, 0.4366), 0.01: (0.7101, 0.4342, 0.4237, 0.4025)},
    ("CIFAR-10", "ResNet-18", "R-ADMM"): {0.1: (0.7833, 0.4546, 0.4448, 0.4323),
                                          0.01: (0.6701, 0.4035, 0.3971, 0.3758)},
    ("SVHN", "VGG-16", "HYDRA"): {0.1: (0.9046, 0.5002, 0.4789, 0.4484), 0.01: (0.8468, 0.4534, 0.4360, 0.3916)},
    ("SVHN", "VGG-16", "R-ADMM"): {0.1: (0.8912, 0.4862, 0.4656, 0.4378), 0.01: (0.5580, 0.2434, 0.2348, 0.2115)},
    ("SVHN", "ResNet-18", "HYDRA"): {0.1: (0.9136, 0.5274, 0.5063, 0.4814), 0.01: (0.8823, 0.4980, 0.4805, 0.4486)},
    ("SVHN", "ResNet-18", "R-ADMM"): {0.1: (0.8973, 0.5701, 0.5525, 0.5335), 0.01: (0.8463, 0.4281, 0.4093, 0.3696)},
}
SOURCE = "others' checkpoints, VGG-16, CIFAR-10 (benchmark)"
RAW = "raw sheets of 2022, uniform rates"


def published(methods: tuple[str, ...] = ("HARP", "HYDRA")):
    """Columns method, keep, measure (clean, or verify for AutoAttack), accuracy, source: the benchmark's VGG-16."""
    import pandas as pd

    return pd.DataFrame([{"method": method, "keep": keep, "measure": measure, "accuracy": value, "source": SOURCE}
                         for method in methods for keep, pair in BENCHMARK["CIFAR-10", "VGG-16", method].items()
                         for measure, value in zip(("clean", "verify"), pair, strict=True)])


def table(data: str = "CIFAR-10"):
    """All numbers of a data set as one DataFrame: columns network, method, pruned, keep, clean, PGD-10, PGD-20, CW,
    AutoAttack, source.
    """
    import pandas as pd

    weights = {key: ("weights", found) for key, found in BENCHMARK.items()}
    channels = {(*key, "HARP"): ("channels", found) for key, found in CHANNELS.items()}
    rows = [{"data": of, "network": network, "method": method, "pruned": pruned, "keep": keep, "clean": clean,
             "AutoAttack": strong, "source": "benchmark"}
            for part in (weights, channels) for (of, network, method), (pruned, found) in part.items()
            for keep, (clean, strong) in found.items()]
    names = ("clean", "PGD-10", "PGD-20", "CW")
    rows += [{"data": of, "network": network, "method": method, "pruned": "weights", "keep": keep,
              **dict(zip(names, numbers, strict=True)), "source": RAW}
             for (of, network, method), found in UNIFORM.items() for keep, numbers in found.items()]
    frame = pd.DataFrame(rows)
    return frame[frame.data == data][["network", "method", "pruned", "keep", *names, "AutoAttack", "source"]]
