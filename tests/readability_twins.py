"""Slow, obvious twins of the measures of readability, in float64: loops over rows, features and pairs."""

from itertools import combinations, permutations

import numpy as np


def quantiles_and_shares(fires, n_rows, at):
    live = sorted(np.log10(n / n_rows) for n in fires if n)
    quantiles = []
    for q in at if live else ():
        place = q * (len(live) - 1)
        low = int(place)
        high = min(low + 1, len(live) - 1)
        quantiles.append(live[low] + (place - low) * (live[high] - live[low]))
    dead = sum(n == 0 for n in fires) / len(fires)
    dense = sum(n > 0.1 * n_rows for n in fires) / len(live) if live else 0.0
    return quantiles, dead, dense


def ridge_by_cross_validation(x, r, penalties):
    """Ridge of one target with the penalty of least GCV, by the hat matrix; None for no regression."""
    n = len(x)
    best, coefficients = (r @ r) / (1 - 1 / n) ** 2, np.zeros(x.shape[1])
    for penalty in penalties:
        inverse = np.linalg.inv(x.T @ x + penalty * np.eye(x.shape[1]))
        hat = x @ inverse @ x.T
        degrees = 1 + np.trace(hat)
        if degrees >= n:
            continue
        left = r - hat @ r
        score = (left @ left) / (1 - degrees / n) ** 2
        if score < best:
            best, coefficients = score, inverse @ x.T @ r
    return coefficients


def token_means(acts, tokens, n_tokens):
    """The empirical Bayes estimate, of one feature at a time."""
    n_rows, found = len(acts), np.zeros((n_tokens, acts.shape[1]))
    groups = {v: [n for n in range(n_rows) if tokens[n] == v] for v in set(tokens.tolist())}
    for i in range(acts.shape[1]):
        a = acts[:, i]
        mean = sum(a) / n_rows
        means = {v: sum(a[n] for n in rows) / len(rows) for v, rows in groups.items()}
        within = sum((a[n] - means[v]) ** 2 for v, rows in groups.items() for n in rows)
        between = sum(len(rows) * (means[v] - mean) ** 2 for v, rows in groups.items())
        for v in range(n_tokens):
            found[v, i] = mean
        if len(groups) < 2 or len(groups) == n_rows:
            continue
        variance = within / (n_rows - len(groups))
        scale = n_rows - sum(len(rows) ** 2 for rows in groups.values()) / n_rows
        apart = (between - (len(groups) - 1) * variance) / scale
        for v, rows in groups.items():
            weight = len(rows) / (len(rows) + variance / apart) if apart > 0 else 0.0
            found[v, i] = mean + weight * (means[v] - mean)
    return found


def neighbour_rows(places, embeddings):
    """X itself: the embeddings of the token and of the two before it, row by row."""
    return np.array([[value for place in row for value in embeddings[place]] for row in places])


def held_out_r2(acts, places, embeddings, second, penalties):
    """R^2 from the token, and from token and neighbours, of both halves together; a feature after the other."""
    x, n_features = neighbour_rows(places, embeddings), acts.shape[1]
    total, token, both = np.zeros(n_features), np.zeros(n_features), np.zeros(n_features)
    for fit, test in ((~second, second), (second, ~second)):
        means = token_means(acts[fit], places[fit, 0], len(embeddings))
        center = x[fit].mean(0)
        scale = np.linalg.eigvalsh((x[fit] - center).T @ (x[fit] - center)).mean()
        for i in range(n_features):
            left = acts[fit, i] - means[places[fit, 0], i]
            offset = left.mean()
            B = ridge_by_cross_validation(x[fit] - center, left - offset, [scale * p for p in penalties])
            for n in np.flatnonzero(test):
                from_token = means[places[n, 0], i]
                token[i] += (acts[n, i] - from_token) ** 2
                both[i] += (acts[n, i] - from_token - offset - (x[n] - center) @ B) ** 2
                total[i] += (acts[n, i] - acts[test, i].mean()) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        known = total > 0
        return tuple(np.where(known, 1 - errors / total, np.nan) for errors in (token, both))


def mean_cosine(vectors, pairs):
    cosines = [vectors[n] @ vectors[m] / np.linalg.norm(vectors[n]) / np.linalg.norm(vectors[m]) for n, m in pairs]
    return sum(cosines) / len(cosines) if cosines else np.nan


def coherence(residual, prompts, top_rows):
    away = residual - residual.mean(0)
    pairs = [(n, m) for n, m in combinations(range(len(away)), 2) if prompts[n] != prompts[m]]
    random = mean_cosine(away, pairs)
    top = [mean_cosine(away, list(combinations([n for n in rows if n >= 0], 2))) for rows in top_rows]
    return np.array(top) - random, random


def f1(predicted, actual):
    both = sum(p and a for p, a in zip(predicted, actual, strict=True))
    if not both:
        return 0.0
    precision, recall = both / sum(predicted), both / sum(actual)
    return 2 * precision * recall / (precision + recall)


def largest_f1(scores, actual):
    """Over all thresholds."""
    return max(f1(scores > t, actual) for t in [*(s - 1e-9 for s in scores), np.inf])


def chosen_features(acts, actual, most):
    """Orthogonal matching pursuit by correlation coefficients; which features, without an end by F1."""
    target, chosen = actual - actual.mean(), []
    left = target
    while len(chosen) < most:
        best, which = 1e-9, None
        for i in range(acts.shape[1]):
            spread = np.sqrt(((acts[:, i] - acts[:, i].mean()) ** 2).sum())
            if i not in chosen and spread > 1e-9:
                along = (acts[:, i] - acts[:, i].mean()) @ left / spread
                if along > best:
                    best, which = along, i
        if which is None:
            break
        chosen.append(which)
        away = acts[:, chosen] - acts[:, chosen].mean(0)
        left = target - away @ np.linalg.pinv(away) @ target
    return chosen


def absorbed_words(acts, W_dec, y, direction, main):
    """The numbers of silent and of absorbed words, word by word."""
    silent = absorbed = 0
    for a, out in zip(acts, y, strict=True):
        if any(a[i] > 0 for i in main):
            continue
        silent += 1
        along = [a[i] * (W_dec[i] @ direction) for i in range(len(a))]
        first = along.index(max(along))
        cosine = W_dec[first] @ direction / np.linalg.norm(W_dec[first])
        projection = out @ direction
        absorbed += projection > 0 and cosine >= 0.025 and along[first] >= 0.4 * projection
    return silent, int(absorbed)


def best_assignment(W_dec, other):
    """The largest sum of cosines over all ways to pair features one to one; the second has no fewer."""

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    return max(
        sum(cosine(W_dec[i], other[j]) for i, j in enumerate(order))
        for order in permutations(range(len(other)), len(W_dec))
    )


def features_with_a_twin(W_enc, W_dec, radius, typical):
    """By the distance of every two features."""
    both = [
        np.concatenate([e / np.linalg.norm(e), d / np.linalg.norm(d)]) / 2**0.5
        for e, d in zip(W_enc.T, W_dec, strict=True)
    ]
    return [
        any(np.linalg.norm(one - other) <= radius * typical for m, other in enumerate(both) if m != n)
        for n, one in enumerate(both)
    ]
