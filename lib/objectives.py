"""Objectives as values: what a training minimises, without torch.

How they are computed stands in lib/training/objectives.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from lib.architectures import Arch, AutoEncoder, Denoisers, Generative, Stitch
from lib.errors import fraction, is_int, is_number, need, unknown
from lib.threats import PGD, PIXEL_NORMS, Threat, compatible
from lib.values import later

BATCHNORM = ("eval", "train")  # of an attack inside training


def _training_attack(threat: Threat, attack: PGD, batchnorm: str) -> None:
    need(isinstance(attack, PGD), "training attack", attack, "a PGD attack")
    compatible(threat, attack)
    need(attack.restarts == 1, "attack.restarts", attack.restarts, "1 in training: one adversarial image an image")
    need(not attack.targeted, "attack.targeted", True, "false in training")
    if batchnorm not in BATCHNORM:
        raise unknown("batchnorm of the training attack", batchnorm, BATCHNORM)


def _pixels(threat: Threat, objective) -> None:
    allowed = f"one of {', '.join(PIXEL_NORMS)} for {type(objective).__name__}, which starts from given pixels"
    need(not threat.perceptual, "threat.norm", threat.norm, allowed)


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy on clean images."""


@dataclass(frozen=True)
class Adversarial:
    """PGD adversarial training: in each batch floor(alpha * B) random images are replaced by adversarial ones.

    `clean_statistics`: a forward pass over the clean batch precedes the mixed one, so that BatchNorm's running
    statistics blend both (what the stitching paper's code does while it trains a joint). `batchnorm`: the mode of
    BatchNorm while the attack runs: eval (its running statistics) or train (the batch's, and running ones adapt).
    FGSM-RS is `fgsm_rs(threat)`. `clean_loss`: the share of the cross-entropy on the clean batch in the loss, the rest
    is that on the adversarial batch (alpha 1); 0.5 is half clean, half adversarial. `accumulated`: the loss is the sum
    over all images that the attack passed through, the last among them (alpha 1): what an update becomes whose
    gradients were not set to zero after the attack (Srinivas et al. 2023, CIFAR-10 code).
    """

    threat: Threat
    attack: PGD
    alpha: float = 1.0
    clean_statistics: bool = False
    batchnorm: str = later("eval")
    clean_loss: float = later(0.0)
    accumulated: bool = later(False)

    def __post_init__(self):
        need(is_number(self.alpha, 0, 1), "alpha", self.alpha, "a number from 0 to 1")
        share = is_number(self.clean_loss, 0, 1) and self.clean_loss < 1
        need(share, "clean_loss", self.clean_loss, "a share of the loss from 0 to below 1")
        need(self.alpha == 1 or not self.clean_loss, "alpha", self.alpha, "1 where clean_loss is given")
        whole = self.alpha == 1 and not self.clean_loss and not self.threat.perceptual
        allowed = "false unless alpha is 1, clean_loss 0, and pixels move"
        need(whole or not self.accumulated, "accumulated", True, allowed)
        _training_attack(self.threat, self.attack, self.batchnorm)


def fgsm_rs(threat: Threat) -> Adversarial:
    """Fast adversarial training (Wong et al. 2020): one step of 1.25 eps from a uniform start in the ball."""
    return Adversarial(threat, PGD(steps=1, step_size=threat.eps * Fraction(5, 4)))


@dataclass(frozen=True)
class TRADES:
    """Cross-entropy on clean images plus beta times KL(clean || adversarial) (Zhang et al. 2019, eq. 5).

    The attack climbs that KL from a Gaussian start of 0.001, whatever its `loss` and `random_start` say; `batchnorm` as
    in Adversarial.
    """

    threat: Threat
    attack: PGD
    beta: float = 6.0
    batchnorm: str = later("eval")

    def __post_init__(self):
        need(is_number(self.beta, 0), "beta", self.beta, "a number of at least 0")
        _training_attack(self.threat, self.attack, self.batchnorm)
        _pixels(self.threat, self)


@dataclass(frozen=True)
class MART:
    """Misclassification-aware adversarial training (Wang et al. 2020, eq. 11): boosted cross-entropy on adversarial
    images plus `weight` (their lambda) times KL(clean || adversarial) weighted by 1 - p_y(clean).

    The attack starts from a Gaussian of 0.001, whatever its `random_start` says; `batchnorm` as in Adversarial.
    """

    threat: Threat
    attack: PGD
    weight: float = 5.0
    batchnorm: str = "eval"

    def __post_init__(self):
        need(is_number(self.weight, 0), "weight", self.weight, "a number of at least 0")
        _training_attack(self.threat, self.attack, self.batchnorm)
        _pixels(self.threat, self)


@dataclass(frozen=True)
class FreeAdversarial:
    """Free adversarial training (Shafahi et al. 2019, algorithm 1): every batch is replayed `replays` times; each
    replay's one backward pass updates the weights and, by a step of eps, the perturbation, which is carried over to
    the next batch. An epoch here is one pass over the data, of `replays` updates a batch.
    """

    threat: Threat
    replays: int = 4

    def __post_init__(self):
        need(is_int(self.replays, 1), "replays", self.replays, "a whole number of at least 1")
        _pixels(self.threat, self)


@dataclass(frozen=True)
class Noise:
    """Cross-entropy on images with Gaussian noise of standard deviation `sigma` (pixels in [0, 1], not cut): what
    randomised smoothing trains on (Cohen et al. 2019).
    """

    sigma: float

    def __post_init__(self):
        need(is_number(self.sigma, 0), "sigma", self.sigma, "a number of at least 0")


@dataclass(frozen=True)
class Stability:
    """Cross-entropy on clean images plus beta times KL(clean || noisy) with Gaussian noise of `sigma` (stability
    training; the smoothing objective of Sehwag et al.).
    """

    sigma: float
    beta: float = 6.0

    def __post_init__(self):
        need(is_number(self.sigma, 0), "sigma", self.sigma, "a number of at least 0")
        need(is_number(self.beta, 0), "beta", self.beta, "a number of at least 0")


@dataclass(frozen=True)
class GradientNorm:
    """Cross-entropy plus `weight` times the mean over images of ||d CE_i / d x_i||_2^2 (pixels in [0, 1]); the
    off-manifold paper's code with coefficient lambda and batches of B has weight = lambda * 1e5 / B^2.
    """

    weight: float

    def __post_init__(self):
        need(is_number(self.weight, 0), "weight", self.weight, "a number of at least 0")


@dataclass(frozen=True)
class Smoothness:
    """Cross-entropy plus `weight` times the mean over images of ||h(x) - h(x + n)||_2^2, h the logits and n Gaussian
    noise of standard deviation `sigma`.
    """

    weight: float
    sigma: float = 0.1

    def __post_init__(self):
        need(is_number(self.weight, 0), "weight", self.weight, "a number of at least 0")
        need(is_number(self.sigma, 0), "sigma", self.sigma, "a number of at least 0")


def _certified(objective) -> None:
    """What objectives share whose ball grows to `eps` over the share `start` to `end` of training."""
    object.__setattr__(objective, "eps", fraction(objective.eps, "objective.eps"))
    need(0 <= objective.eps <= 1, "objective.eps", objective.eps, "from 0 to 1 (pixels lie in [0, 1])")
    start, end = objective.start, objective.end
    need(is_number(start, 0, 1) and is_number(end, 0, 1) and start <= end, "start", (start, end),
         "shares of training from 0 to 1, start not after end")


@dataclass(frozen=True)
class IBP:
    """Interval bound propagation (Gowal et al. 2019): kappa times the cross-entropy of the logits plus 1 - kappa times
    that of their worst case in the linf ball of `eps`. Over the share `start` to `end` of training eps rises linearly
    from 0 and kappa falls from 1 to `kappa`.
    """

    eps: Fraction
    kappa: float = 0.5
    start: float = 0.1
    end: float = 0.5

    def __post_init__(self):
        _certified(self)
        need(is_number(self.kappa, 0, 1), "kappa", self.kappa, "a number from 0 to 1")


@dataclass(frozen=True)
class CrownIBP:
    """CROWN-IBP (Zhang et al. 2020): kappa times the cross-entropy of the logits plus 1 - kappa times that of their
    worst case in the linf ball of `eps`, bounded by beta * linear + (1 - beta) * interval bounds of the margins
    (adaptive slopes, interval bounds of the ReLUs' inputs). Over the share `start` to `end` of training eps rises
    linearly from 0 and beta falls from 1 to 0; from then on only interval bounds are computed.

    beta is 1 - eps(t) / eps, as in the code of both CROWN-IBP and HYDRA. kappa does not change, other than in IBP: 0
    throughout, no natural cross-entropy at all, is HYDRA's loss and the plain one of the CROWN-IBP code (which can also
    let it fall from 1 with eps). Until `start`, where the ball is a point, the loss is the cross-entropy.
    """

    eps: Fraction
    kappa: float = 0.0
    start: float = 0.0
    end: float = 0.5

    def __post_init__(self):
        _certified(self)
        need(is_number(self.kappa, 0, 1), "kappa", self.kappa, "a number from 0 to 1")


@dataclass(frozen=True)
class MixTrain:
    """MixTrain (Wang et al. 2018) as in HYDRA's code: the cross-entropy of the batch, plus, in each batch with
    probability `share`, w times that of the worst-case logits of `images` of its images, drawn at random, in the linf
    ball of eps(t). The worst case is bounded by symbolic linear relaxation: parallel slopes for the margins and for the
    bounds of every ReLU's input (lib/certify/linear.py).

    eps(t) rises linearly from 0 over the share `start` to `end` of training. w is `weight` until then; after every
    `every` further epochs it becomes `growth` times as large, but never more than `most`.

    Their eps rises by a step an epoch, here by one an update; they draw images with replacement, here without. On a
    batch of fewer images than `images` all are taken.
    """

    eps: Fraction
    share: float = 0.8
    images: int = 5
    weight: float = 0.1
    growth: float = 2.5
    every: int = 5
    most: float = 50.0
    start: float = 0.0
    end: float = 0.25

    def __post_init__(self):
        _certified(self)
        need(is_number(self.share, 0, 1), "share", self.share, "a probability from 0 to 1")
        need(is_int(self.images, 1), "images", self.images, "a whole number of at least 1")
        need(is_number(self.weight, 0), "weight", self.weight, "a number of at least 0")
        need(is_number(self.growth, 1), "growth", self.growth, "a number of at least 1")
        need(is_int(self.every, 1), "every", self.every, "a whole number of epochs of at least 1")
        need(is_number(self.most, self.weight), "most", self.most, f"a number of at least weight ({self.weight})")


@dataclass(frozen=True)
class Denoising:
    """Denoising score matching with the weights of EDM (Karras et al. 2022): the network sees images with Gaussian
    noise of a standard deviation between `low` and `high` (pixels in [0, 1]; half of what it is for pixels in [-1, 1]),
    drawn for each image so that its logarithm is uniform, and is to give the clean image. Equal ones are one level.
    `label_dropout`: the probability with which an image comes without its class, so that one network learns the
    class-conditional scores and the unconditional one.
    """

    low: float
    high: float
    label_dropout: float = 0.1

    def __post_init__(self):
        need(is_number(self.low, 0) and self.low > 0, "low", self.low, "a noise level greater than 0")
        need(is_number(self.high, self.low), "high", self.high, f"a number of at least low ({self.low})")
        need(is_number(self.label_dropout, 0, 1), "label_dropout", self.label_dropout, "a probability from 0 to 1")


@dataclass(frozen=True)
class Reconstruction:
    """The squared error of an auto-encoder's images, whose input has Gaussian noise of standard deviation `noise`
    (pixels in [0, 1], not cut): 0 is a plain auto-encoder.
    """

    noise: float = 0.0

    def __post_init__(self):
        need(is_number(self.noise, 0), "noise", self.noise, "a number of at least 0")


Loss = (
    CrossEntropy | Adversarial | TRADES | MART | FreeAdversarial | Noise | Stability | GradientNorm | Smoothness | IBP
    | CrownIBP | MixTrain | Denoising | Reconstruction
)


TARGETS = ("one image", "class mean", "nearest neighbour", "score", "random direction")
REPRESENTED = TARGETS[:3]  # the heuristics: the way from an image to what represents a class
PERMUTED = ("classes", "images")


@dataclass(frozen=True)
class Targets:
    """What the input gradients of a classifier are to align with: a direction g(x, t) for each image x and class t
    (the ground-truth gradients of Ganz et al. 2023).

    kind: `one image`, r_t - x with r_t one arbitrary training image of the class; `class mean`, r_t the mean of its
    training images; `nearest neighbour`, r_t the one nearest to x (l2) among its first `sample` training images (None:
    all), x itself excluded; `score`, the class-conditional score minus the unconditional one of the recipe's source, a
    denoiser, at noise `sigma` (pixels in [0, 1]): at the clean image (`draws` 0) or averaged over so many noisy ones;
    `random direction`, a Gaussian direction of each class, the same for all images: a control.
    centred: minus the mean over all classes, so that an image's targets sum to zero, as sum_t p_t grad log p_t does.
    permuted: a control; `classes`, each class has another one's targets, or `images`, each training image has another
    one's.
    """

    kind: str
    centred: bool = False
    permuted: str | None = None
    sample: int | None = None
    sigma: float | None = None
    draws: int = 0

    def __post_init__(self):
        if self.kind not in TARGETS:
            raise unknown("kind of targets", self.kind, TARGETS)
        if self.permuted is not None and self.permuted not in PERMUTED:
            raise unknown("permutation of targets", self.permuted, PERMUTED)
        kind, heuristics = self.kind, ", ".join(REPRESENTED)
        need(isinstance(self.centred, bool) and (kind in REPRESENTED or not self.centred), "targets.centred",
             self.centred, f"false for {kind}, true or false for {heuristics}")
        need(kind != "random direction" or self.permuted is None, "targets.permuted", self.permuted,
             "null for random direction, which is a control already")
        fixed = self.centred and kind in ("one image", "class mean")
        need(not fixed or self.permuted != "images", "targets.permuted", self.permuted,
             f"classes or null for centred {kind}, which is the same for all images")
        sampled = self.sample is None or (kind == "nearest neighbour" and is_int(self.sample, 2))
        need(sampled, "targets.sample", self.sample,
             "a number of images of each class of at least 2 for nearest neighbour, null for other kinds")
        if kind == "score":
            given = is_number(self.sigma, 0) and self.sigma > 0
            need(given, "targets.sigma", self.sigma, "a noise level greater than 0 for score")
            need(is_int(self.draws, 0), "targets.draws", self.draws, "a whole number of at least 0")
        else:
            need(self.sigma is None, "targets.sigma", self.sigma, f"null for {kind}: it belongs to score")
            need(self.draws == 0, "targets.draws", self.draws, f"0 for {kind}: they belong to score")


GRADIENTS = ("log-probability", "logit")


@dataclass(frozen=True)
class Aligned:
    """`objective` plus `weight` (the paper's lambda) times the mean over images of the sum over classes t, the own one
    included, of 1 - cos(grad_x log p_t(x), g(x, t)), g the `targets` (Ganz et al. 2023). The gradients are those at
    the clean augmented images, also beside Adversarial and TRADES, whose images are others.

    classes: so many of them, drawn for each image and update, stand for all C by a factor of C / classes, which makes
    an unbiased estimate of the sum (None: all). gradient: of the `log-probability`, as in the paper's code, or of the
    `logit`, as in its equation. batchnorm: `train` takes the network as it is in training, so that gradients flow
    through the batch's statistics too, as in the paper's code; beside CrossEntropy both share one forward pass.
    `eval` is a pass of its own at BatchNorm's running statistics, which stay as they are.
    first_weight: the weight in the first `first_share` of training (their ViT: 2, then 3); None: the same throughout.
    """

    objective: CrossEntropy | Adversarial | TRADES
    targets: Targets
    weight: float
    classes: int | None = None
    gradient: str = "log-probability"
    batchnorm: str = "train"
    first_weight: float | None = None
    first_share: Fraction = Fraction(1, 2)

    def __post_init__(self):
        beside = isinstance(self.objective, (CrossEntropy, Adversarial, TRADES))
        need(beside, "objective of Aligned", type(self.objective).__name__, "CrossEntropy, Adversarial or TRADES")
        need(isinstance(self.targets, Targets), "targets", self.targets, "Targets")
        need(is_number(self.weight, 0), "weight", self.weight, "a number of at least 0")
        need(self.classes is None or is_int(self.classes, 1), "classes", self.classes,
             "a whole number of at least 1, or null for all")
        if self.gradient not in GRADIENTS:
            raise unknown("gradient to align", self.gradient, GRADIENTS)
        if self.batchnorm not in BATCHNORM:
            raise unknown("batchnorm of the aligned gradients", self.batchnorm, BATCHNORM)
        first = self.first_weight is None or is_number(self.first_weight, 0)
        need(first, "first_weight", self.first_weight, "a number of at least 0, or null")
        object.__setattr__(self, "first_share", fraction(self.first_share, "first_share"))
        need(0 < self.first_share < 1, "first_share", self.first_share, "a share of training between 0 and 1")

    @property
    def active(self) -> bool:
        """Whether the alignment counts at any time; if not, this is the plain objective and needs no targets."""
        return bool(self.weight or self.first_weight)

    def weight_at(self, share: float) -> float:
        """The weight when the share `share` of training is done."""
        return self.weight if self.first_weight is None or share >= self.first_share else self.first_weight


ATTACKED = ("front", "end", "itself")


@dataclass(frozen=True)
class Transferred:
    """Training a stitched network on images that were made to fool other networks (the transfer-trained joints of the
    code of Balogh & Jelasity 2023): the sum of its cross-entropies at adversarial images against each network of
    `against` and, with `clean`, at the clean images.

    against: one or more of `front` and `end`, the whole networks that the halves are cut from, in eval mode and as they
    were trained (in the paper's code, where they share BatchNorm with the stitched network, its statistics have moved);
    `itself`, the stitched network as it stands: that alone is Adversarial. The robust ones of front and end, with
    `clean` if one of the two is not robust, make the "representation union" of the code. clean_statistics: as in
    Adversarial (in the code the clean batch passes after the update).
    """

    threat: Threat
    attack: PGD
    against: tuple[str, ...] = ("front", "end")
    clean: bool = False
    clean_statistics: bool = False

    def __post_init__(self):
        for name in self.against:
            if name not in ATTACKED:
                raise unknown("network to attack", name, ATTACKED)
        some = 0 < len(self.against) == len({*self.against})
        need(some, "against", list(self.against), f"one or more different ones of {', '.join(ATTACKED)}")
        # what means the same is the same value
        object.__setattr__(self, "against", tuple(name for name in ATTACKED if name in self.against))
        _training_attack(self.threat, self.attack, "eval")


def _no_search(objective, name: str) -> None:
    need(not isinstance(objective, (Prune, Saliency, ADMM, Rewire)), f"objective of {name}", type(objective).__name__,
         "one that trains weights and prunes none")
    need(not isinstance(objective, Aligned), f"objective of {name}", "Aligned", "one without aligned gradients")
    alone = not isinstance(objective, Transferred)
    need(alone, f"objective of {name}", "Transferred", "one that attacks the network it trains")


@dataclass(frozen=True)
class Prune:
    """The search for a pruned network's scores and rates with frozen weights (HARP; HYDRA where only scores are
    learned): `objective` at the masked network plus g * L_hw, L_hw = max(cost / target cost - 1, 0) where rates are
    learned (costs by the layers' keep rates: weights, or FLOPs for channels), else 0.

    growing: in epoch e = 0, 1, ... g = (e + 1) * gamma, until an epoch ends with an L_hw that rounds to 0.0000; from
    then on g stays. Otherwise g = gamma throughout. A search that ends above its target is an error.
    """

    objective: Loss
    gamma: float = 0.01
    growing: bool = True

    def __post_init__(self):
        _no_search(self.objective, "Prune")
        need(is_number(self.gamma, 0), "gamma", self.gamma, "a number of at least 0")


@dataclass(frozen=True)
class Saliency:
    """No training: the scores of a pruned network become the sum over the epochs' batches of theta * dL/dtheta, L the
    `objective` at the dense network; their absolute values rank weights (channels: the sums over a channel's weights).
    On one batch this is SNIP (Lee et al. 2019).
    """

    objective: Loss

    def __post_init__(self):
        _no_search(self.objective, "Saliency")


@dataclass(frozen=True)
class ADMM:
    """Training a dense network towards a sparse one by the alternating direction method of multipliers (R-ADMM, Ye et
    al. 2019): `objective` plus rho / 2 times the sum over convolutions and linear layers of ||W - Z + U||^2 (weights,
    no biases).

    Z starts as the projection of W, with the floor((1 - keep) n) smallest of n absolute values set to 0, U as 0. After
    every `every` epochs Z becomes the projection of W + U, then U grows by W - Z, and rho becomes `growth` times as
    large; as in their code U is not rescaled for the new rho. The network stays dense. What follows is a recipe with
    Pruned(rates uniform, scores magnitude) and this one as its parent.

    Their code resets the learning rate at every update of Z, and drops it to a tenth at each third in between. No
    Schedule does that: here the rate follows the recipe's schedule once over all epochs.
    """

    objective: Loss
    keep: Fraction
    rho: float = 0.001
    growth: float = 1.3
    every: int = 30

    def __post_init__(self):
        _no_search(self.objective, "ADMM")
        object.__setattr__(self, "keep", fraction(self.keep, "objective.keep"))
        need(0 < self.keep < 1, "objective.keep", self.keep, "a share between 0 and 1, both excluded")
        need(is_number(self.rho, 0), "rho", self.rho, "a number of at least 0")
        need(is_number(self.growth, 1), "growth", self.growth, "a number of at least 1")
        need(is_int(self.every, 1), "every", self.every, "a whole number of epochs of at least 1")


SCOPES = ("network", "layer")


@dataclass(frozen=True)
class Rewire:
    """Training a sparse network from scratch while its connections are sampled (Bayesian connectivity sampling,
    Özdenizci & Legenstein 2021, with the deep rewiring of Bellec et al. 2018): `objective` at a network of fixed masks
    that start random.

    Every position of a weight has a sign for good. After each update every active weight gets Gaussian noise of
    standard deviation `noise` times the learning rate; a connection whose weight no longer has its position's sign
    becomes dormant, and for each of them a dormant one becomes active at a weight of 1e-12 with its position's sign.
    scope `network`: it lies in a layer drawn with a chance proportional to the layer's number of weights (one with room
    for it) and is any dormant one of that layer, so the network's number of connections stays and the layers' change;
    `layer`: it lies in the same layer, so each layer's number stays. An optimiser's memory of a weight ends when it
    becomes dormant, which it does not in their code.

    Their code starts from rates of its own for each network, which are not among those of Pruned; and it decays weights
    beside the momentum, by 5e-4 an update at lr 0.1, which is what an L2 weight decay of 5e-4 comes to under momentum
    0.9.
    """

    objective: Loss
    noise: float = 1e-6
    scope: str = "network"

    def __post_init__(self):
        _no_search(self.objective, "Rewire")
        need(is_number(self.noise, 0), "noise", self.noise, "a number of at least 0")
        if self.scope not in SCOPES:
            raise unknown("scope", self.scope, SCOPES)


Objective = Loss | Transferred | Aligned | Prune | Saliency | ADMM | Rewire


def check_objective(arch: Arch, objective: Objective) -> None:
    """Raise `SettingsError` unless `objective` trains networks of `arch`: Denoising denoisers, Reconstruction
    auto-encoders, Transferred stitched networks, all others networks that give classes.
    """
    if isinstance(arch, Generative):
        wanted = Denoising if isinstance(arch, Denoisers) else Reconstruction
        need(isinstance(objective, wanted), "objective", type(objective).__name__, f"{wanted.__name__} for {arch.name}")
        return
    cut = isinstance(arch, Stitch) or not isinstance(objective, Transferred)
    need(cut, "objective", "Transferred", f"one that needs no front and end for {arch.name}")
    inner = getattr(objective, "objective", objective)
    takes = {Denoising: Denoisers, Reconstruction: AutoEncoder}.get(type(inner))
    need(takes is None, "objective", type(inner).__name__, f"one that trains a classifier for {arch.name}")
