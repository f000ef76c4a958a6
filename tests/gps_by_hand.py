"""GPS written down naively, image after image: the ball of the paper, and what the authors' code adds to it."""

from __future__ import annotations

import math

import numpy as np


def squared_distances(points):
    return [[float(sum((a - b) ** 2 for a, b in zip(one, other, strict=True))) for other in points] for one in points]


def nearest_first(distances, anchor, members):
    return sorted((image for image in members if image != anchor), key=lambda image: (distances[anchor][image], image))


def spread(values):
    mean = sum(values) / len(values)
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))


def by_rule(rule, values):
    mean, std = spread(values)
    if rule.startswith("q"):
        return float(np.quantile(values, float(rule[1:])))
    return max(0.0, {"mean": mean, "mean+std": mean + std, "mean-std": mean - std}[rule])


def nearest_distances(distances):
    return [sorted(row[:anchor] + row[anchor + 1 :])[:20] for anchor, row in enumerate(distances)]


def radius_of_all(distances, rule):
    return by_rule(rule, [distance for near in nearest_distances(distances) for distance in near])


def ball_by_hand(distances, keys, group_of=None):
    """For each image its ball, nearest first.

    Args:
        distances: N lists of N squared distances.
        keys: Of ``sampler.gps``.
        group_of: From the balls so far to the group of each image, where ``within`` asks for one.
    """
    everyone = range(len(distances))
    order = [nearest_first(distances, anchor, everyone) for anchor in everyone]
    radius = keys.get("radius")
    if radius is None:
        balls = [order[anchor][: keys.get("k", 10)] for anchor in everyone]
    elif isinstance(radius, float):
        balls = [[image for image in order[anchor] if distances[anchor][image] < radius] for anchor in everyone]
    else:
        radii = [by_rule(radius, near) for near in nearest_distances(distances)]
        if keys.get("radius_of", "all") == "all":
            radii = [radius_of_all(distances, radius)] * len(radii)
        balls = [[image for image in order[anchor] if distances[anchor][image] <= radii[anchor]] for anchor in everyone]
    balls = [nearest_first(distances, anchor, reached(balls, anchor, keys.get("hops", 1))) for anchor in everyone]
    if keys.get("mutual"):
        balls = [[image for image in balls[anchor] if anchor in balls[image]] for anchor in everyone]
    if group_of is not None:
        group = group_of(balls)
        balls = [[image for image in balls[anchor] if group[image] == group[anchor]] for anchor in everyone]
    return balls


def reached(balls, anchor, hops):
    found = {anchor}
    for _ in range(hops):
        found |= {image for member in found for image in balls[member]}
    return found


def chosen_by_hand(distances, balls, keys, draws):
    """For each image its positives; ``draws`` holds, for each of them and each image, a number from 0 to 1."""
    positives = []
    for anchor, ball in enumerate(balls):
        choose = keys.get("choose", "furthest")
        left = [anchor] * bool(keys.get("keep_anchor")) + (ball[::-1] if choose == "furthest" else ball)
        chosen = []
        for number in range(keys.get("positives", 1)):
            if not ball:
                chosen.append(anchor)
            elif not left:
                chosen.append(chosen[number - len(ball) - bool(keys.get("keep_anchor"))])
            else:
                at = 0
                if choose == "uniform":
                    at = int(draws[number][anchor] * len(left))
                if choose == "weighted":
                    at = weighed(distances[anchor], ball, left, keys.get("temperature") or 1.0, draws[number][anchor])
                chosen.append(left.pop(at))
        positives.append(chosen)
    return positives


def weighed(distances, ball, left, temperature, draw):
    """Which of those left a draw falls on; all weights from the nearest of them, or a low temperature leaves none."""
    scale = temperature * sum(distances[image] for image in ball) / len(ball)
    least = min(distances[image] for image in left)
    weights = [math.exp(-(distances[image] - least) / scale) if scale else 1.0 for image in left]
    at = draw * sum(weights)
    return next((place for place in range(len(weights)) if at < sum(weights[: place + 1])), len(weights) - 1)
