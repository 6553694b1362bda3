"""Which networks of a paper are shown on the page of images."""

import pytest

from lib.papers import papers, settings

SHOWN = {
    "stitching": ["normal ResNet-10-w16 on cifar10", "robust ResNet-10-w16 on cifar10"],
    "representation_similarity": ["normal ResNet-10-w16 on cifar10", "robust ResNet-10-w16 on cifar10"],
    "perceptually_aligned_gradients": ["CIFAR-10: vanilla", "CIFAR-10: AT l2", "CIFAR-10: AT linf", "digits: vanilla",
                                       "digits ViT: vanilla"],
    "off_manifold_robustness": ["normal ResNet-10-w16 on cifar10", "robust ResNet-10-w16 on cifar10"],
    "harp_pruning": ["normal ResNet-10-w16 on cifar10", "robust ResNet-10-w16 on cifar10"],
    "across_papers": ["normal ResNet-10-w16 on cifar10", "robust ResNet-10-w16 on cifar10"],
    "compact_robust_pruning": ["ResNet, robust training", "ResNet, benign training",
                               "CNN-small on MNIST, robust training", "CNN-small on MNIST, benign training"],
}


@pytest.mark.parametrize("name", papers())
@pytest.mark.parametrize("profile", ["smoke", "laptop", "gpu", "paper"])
def test_the_reference_networks_of_a_paper_have_names_of_their_own(name, profile):
    s, paper = settings.load(profile), papers()[name]
    if name not in s.notebooks:
        pytest.skip("not in this profile")
    given = s.networks_of(name), s.sections[name], s.seed
    results = paper.module("results").Results(*given, paper.cells(*given))
    titles = [results.title(cell) for cell in results.references()]
    assert len({*titles}) == len(titles)
    if profile == "laptop":
        assert titles == SHOWN[name]
