"""How data sets, backbones, methods and metrics are called in print; what is not listed keeps its own name."""

from __future__ import annotations

PRINTED = {
    "mnist_lt": "MNIST-LT",
    "fashion_lt": "Fashion-LT",
    "cmnist_lt": "CMNIST-LT",
    "cifar10_lt": "CIFAR-10-LT",
    "cifar100_lt": "CIFAR-100-LT",
    "imagenet_lt": "ImageNet-LT",
    "digits_lt": "Digits-LT",
    "lenet": "LeNet",
    "resnet32": "ResNet-32",
    "resnet10": "ResNet-10",
    "resnet50": "ResNet-50",
    "ce": "CE",
    "crt": "cRT",
    "cbrs": "CB-RS",
    "csa": "CSA",
    "csa_mixup": "CSA + mixup",
    "focal": "Focal loss",
    "cb_focal": "CB-Focal",
    "ce_drs": "CE-DRS",
    "ce_drw": "CE-DRW",
    "ldam_drw": "LDAM-DRW",
    "lws": "LWS",
    "tau_norm": "tau-norm.",
    "bbn": "BBN",
    "mixup": "mixup",
    "remix": "Remix",
    "m2m": "M2m",
    "cam_bs": "CAM-BS",
    "cmo": "CMO",
    "crt_mixup": "cRT + mixup",
    "lws_mixup": "LWS + mixup",
    "oltr": "OLTR",
    "fsa": "FSA",
    "logit_adjustment": "Logit adj.",
    "logit_adjustment_post_hoc": "Post-hoc LA",
    "balanced_softmax": "Bal. softmax",
    "all": "All",
    "many": "Many",
    "medium": "Med.",
    "few": "Few",
}


def printed(name: str) -> str:
    return PRINTED.get(name, name)
