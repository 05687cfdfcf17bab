"""Gradient-boosted trees as gathers: LightGBM's answers from a graph that any runtime can run.

Every tree is walked at once, level by level: which feature, which threshold, which child. ONNX's own tree
operators exist in few runtimes; these are three gathers and a comparison.

Shapes: R rows, F features, T trees, D depth.

Source: the "tree traversal" strategy of Nakandala et al., "A Tensor Compiler for Unified Machine Learning
Prediction Serving" (OSDI 2020), section 4.1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Trees(nn.Module):
    """The sum of T regression trees over numeric features without missing values.

    Args:
        num_nodes: Nodes of all trees together, leaves included.
        num_trees: Trees.
        depth: Steps from the root that reach every leaf.
    """

    def __init__(self, num_nodes: int, num_trees: int, depth: int) -> None:
        super().__init__()
        self.depth = depth
        self.register_buffer("feature", torch.zeros(num_nodes, dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros(num_nodes))
        self.register_buffer("lower", torch.zeros(num_nodes, dtype=torch.int64))
        self.register_buffer("upper", torch.zeros(num_nodes, dtype=torch.int64))
        self.register_buffer("value", torch.zeros(num_nodes))
        self.register_buffer("root_T", torch.zeros(num_trees, dtype=torch.int64))
        self.feature: Tensor
        self.threshold: Tensor
        self.lower: Tensor
        self.upper: Tensor
        self.value: Tensor
        self.root_T: Tensor

    def forward(self, features_RF: Tensor) -> Tensor:
        """Sums float32 [R] for features float32 [R,F]."""
        node_RT = self.root_T[None].expand(features_RF.shape[0], -1)
        for _ in range(self.depth):
            value_RT = features_RF.gather(1, self.feature[node_RT])
            node_RT = torch.where(
                value_RT <= self.threshold[node_RT], self.lower[node_RT], self.upper[node_RT]
            )
        return self.value[node_RT].sum(1)

    @classmethod
    def from_lightgbm(cls, booster: Any) -> Trees:
        """The trees of a `lightgbm.Booster` of one output, numeric splits only.

        Raises:
            ValueError: A split is not numeric, or sends missing values by a rule of its own.
        """
        nodes: list[tuple[int, float, int, int, float]] = []
        roots, depth = [], 0

        def add(tree: dict[str, Any], level: int) -> int:
            nonlocal depth
            depth = max(depth, level)
            index = len(nodes)
            if "leaf_value" in tree:
                nodes.append((0, 0.0, index, index, float(tree["leaf_value"])))
                return index
            if tree["decision_type"] != "<=" or tree["missing_type"] != "None":
                raise ValueError(f"cannot convert the split {tree['decision_type']} {tree['missing_type']}")
            nodes.append((0, 0.0, 0, 0, 0.0))
            lower, upper = add(tree["left_child"], level + 1), add(tree["right_child"], level + 1)
            nodes[index] = (tree["split_feature"], float(tree["threshold"]), lower, upper, 0.0)
            return index

        for tree in booster.dump_model()["tree_info"]:
            roots.append(add(tree["tree_structure"], 0))
        trees = cls(len(nodes), len(roots), depth)
        feature, threshold, lower, upper, value = (np.array(column) for column in zip(*nodes, strict=True))
        trees.feature.copy_(torch.from_numpy(feature))
        trees.threshold.copy_(torch.from_numpy(_rounded_down(threshold)))
        trees.lower.copy_(torch.from_numpy(lower))
        trees.upper.copy_(torch.from_numpy(upper))
        trees.value.copy_(torch.from_numpy(value))
        trees.root_T.copy_(torch.tensor(roots))
        return trees


def _rounded_down(values: np.ndarray) -> np.ndarray:
    """The largest float32 at or below: ``x <= threshold`` then says the same of every float32 x."""
    nearest = values.astype(np.float32)
    return np.where(nearest > values, np.nextafter(nearest, np.float32(-np.inf)), nearest)
