import re
from collections import deque

import numpy as np
import pytest
from scipy import ndimage
from skimage import data, filters, segmentation

from medseg import classical, metrics, phantoms


def random_image(seed=0, size=(24, 31)):
    noise = np.random.default_rng(seed).normal(size=size)
    return ndimage.gaussian_filter(noise, 2) * 100


def two_discs(gap=0):
    """Two discs of radius 8, whose centres are 16 + gap pixels apart."""
    rows, columns = np.mgrid[:24, :48]
    left = np.hypot(rows - 12, columns - 12) <= 8
    return left | (np.hypot(rows - 12, columns - 28 - gap) <= 8)


# ---------------------------------------------------------------------- thresholds


def test_otsu_maximises_the_variance_between_classes():
    image = data.camera()[::4, ::4]
    values = image.ravel().astype(float)

    def between(cut):
        low, high = values[values <= cut], values[values > cut]
        if not low.size or not high.size:
            return 0.0
        return low.size * high.size * (low.mean() - high.mean()) ** 2

    best = max(range(256), key=between)
    assert classical.otsu_thresholds(image) == (best,)
    assert classical.otsu_thresholds(image)[0] == filters.threshold_otsu(image)


def test_two_thresholds_of_three_heaps_lie_between_them():
    rng = np.random.default_rng(0)
    heaps = np.concatenate([rng.normal(mean, 4, 500) for mean in (0, 50, 100)])
    low, high = classical.otsu_thresholds(heaps, num_classes=3)
    assert 10 < low < 40
    assert 60 < high < 90


def test_otsu_follows_a_linear_change_of_the_values():
    image = random_image()
    (cut,) = classical.otsu_thresholds(image)
    (moved,) = classical.otsu_thresholds(3 * image + 7)
    assert moved == pytest.approx(3 * cut + 7)


@pytest.mark.parametrize(
    ("image", "options", "text"),
    [
        (np.ones(5), {}, "1 distinct value"),
        (np.array([1, 2, 1]), {"num_classes": 3}, "2 distinct value"),
        (np.arange(5), {"num_classes": 1}, "num_classes must be 2 or more, got 1"),
        (np.array([1.0, np.nan]), {}, "NaN or infinite"),
        (np.zeros((0, 3)), {}, "no pixels"),
    ],
)
def test_otsu_says_what_it_cannot_do(image, options, text):
    with pytest.raises(ValueError, match=text):
        classical.otsu_thresholds(image, **options)


def test_threshold_excludes_its_bounds():
    values = np.array([1, 2, 3, 4])
    assert classical.threshold(values, above=1, below=4).tolist() == [0, 1, 1, 0]
    assert classical.threshold(values, above=2).tolist() == [0, 0, 1, 1]
    assert classical.threshold(values, below=2).tolist() == [1, 0, 0, 0]


def test_threshold_wants_a_bound_that_leaves_something():
    with pytest.raises(ValueError, match="at least one bound"):
        classical.threshold(np.arange(3))
    with pytest.raises(ValueError, match="swap the two"):
        classical.threshold(np.arange(3), above=2, below=1)


def test_an_image_holds_numbers():
    with pytest.raises(TypeError, match="must hold numbers"):
        classical.threshold(np.array(["a", "b"]), above=1)


# ----------------------------------------------------------------- region growing


def grow_slowly(image, seeds, tolerance, steps):
    """Breadth first, pixel by pixel."""
    level = image[seeds].mean()
    region, queue = seeds.copy(), deque(map(tuple, np.argwhere(seeds)))
    while queue:
        place = queue.popleft()
        for step in steps:
            near = tuple(np.add(place, step))
            inside = all(
                0 <= n < size for n, size in zip(near, image.shape, strict=True)
            )
            if inside and not region[near] and abs(image[near] - level) <= tolerance:
                region[near] = True
                queue.append(near)
    return region


@pytest.mark.parametrize("connectivity", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_region_growing_is_a_breadth_first_search(seed, connectivity):
    image = random_image(seed)
    seeds = np.zeros(image.shape, bool)
    seeds[np.unravel_index(abs(image).argmin(), image.shape)] = seeds[3, 4] = True
    sides = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    corners = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    found = classical.region_growing(image, seeds, 15, connectivity=connectivity)
    steps = sides if connectivity == 1 else sides + corners
    np.testing.assert_array_equal(found, grow_slowly(image, seeds, 15, steps))
    assert 2 < found.sum() < image.size  # neither nothing nor all


def test_region_growing_from_one_seed_is_a_flood():
    image = np.round(random_image(5))
    seeds = np.zeros(image.shape, bool)
    seeds[10, 10] = True
    flood = segmentation.flood(image, (10, 10), tolerance=5, connectivity=1)
    np.testing.assert_array_equal(classical.region_growing(image, seeds, 5), flood)


def test_region_growing_works_in_a_volume():
    volume = np.zeros((4, 5, 6))
    volume[1:3, 1:4, 2:5] = 1
    volume[3, 4, 5] = 1  # joined by nothing but a corner
    seeds = np.zeros(volume.shape, bool)
    seeds[1, 1, 2] = True
    grown = classical.region_growing(volume, seeds, 0.5)
    np.testing.assert_array_equal(grown, (volume == 1) & (np.arange(6) < 5))
    corners = classical.region_growing(volume, seeds, 0.5, connectivity=3)
    np.testing.assert_array_equal(corners, volume == 1)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"seeds": np.zeros((3, 3), bool)}, "nothing to grow from"),
        ({"seeds": np.ones((3, 2), bool)}, "seeds have shape (3, 2)"),
        ({"tolerance": -1}, "tolerance must be 0 or more"),
        ({"connectivity": 3}, "connectivity must lie in 1..2, got 3"),
    ],
)
def test_region_growing_says_what_it_needs(change, text):
    fine = {"image": np.eye(3), "seeds": np.eye(3, dtype=bool), "tolerance": 1}
    with pytest.raises(ValueError, match=re.escape(text)):
        classical.region_growing(**{**fine, **change})


# ------------------------------------------------------------------------- edges


def test_gradient_of_a_plane_is_its_slope_in_any_direction():
    rows, columns = np.mgrid[:40, :40]
    steep = classical.gradient_magnitude(3 * rows + 4 * columns, sigma=1.5)
    np.testing.assert_allclose(steep[12:-12, 12:-12], 5, rtol=1e-3)


def test_closed_edges_enclose_a_disc():
    rows, columns = np.mgrid[:64, :64]
    disc = np.hypot(rows - 32, columns - 30) <= 15
    image = disc + np.random.default_rng(0).normal(0, 0.05, disc.shape)
    found = classical.edge_mask(image, sigma=1.5, closing=2)
    assert metrics.dice_score(found, disc) > 0.95


def test_edges_that_enclose_nothing_are_not_kept():
    step = np.repeat([0.0, 1.0], 20)[None].repeat(40, axis=0)
    assert not classical.edge_mask(step, closing=2).any()
    assert not classical.edge_mask(np.zeros((20, 20))).any()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"low": 0.9, "high": 0.8}, "got low 0.9 and high 0.8"),
        ({"closing": -1}, "closing must be 0 or more"),
    ],
)
def test_edges_refuse_numbers_out_of_range(options, text):
    with pytest.raises(ValueError, match=text):
        classical.edge_mask(np.eye(9), **options)


def test_edges_are_those_of_a_plane():
    with pytest.raises(ValueError, match=re.escape("(H, W), got shape (3, 3, 3)")):
        classical.edge_mask(np.zeros((3, 3, 3)))


def test_gradient_needs_a_scale():
    with pytest.raises(ValueError, match="sigma must be above 0"):
        classical.gradient_magnitude(np.eye(4), sigma=0)


# --------------------------------------------------------------------- watershed


def lowest_pass(height, start):
    """For each pixel the highest point of the best path from `start`."""
    best = np.full(height.shape, np.inf)
    best[start] = height[start]
    while True:  # until nothing changes
        wide = np.pad(best, 1, constant_values=np.inf)
        around = [wide[1:-1, :-2], wide[1:-1, 2:], wide[:-2, 1:-1], wide[2:, 1:-1]]
        better = np.minimum(best, np.maximum(np.min(around, axis=0), height))
        if (better == best).all():
            return best
        best = better


@pytest.mark.parametrize("seed", range(3))
def test_watershed_gives_a_pixel_to_the_marker_with_the_lowest_pass(seed):
    height = np.random.default_rng(seed).permutation(15 * 17).reshape(15, 17)
    starts = [(2, 3), (7, 12), (13, 5)]
    markers = np.zeros(height.shape, int)
    for number, start in enumerate(starts, start=1):
        markers[start] = number
    found = classical.watershed(height, markers)
    passes = np.stack([lowest_pass(height, start) for start in starts])
    reached = np.take_along_axis(passes, found[None] - 1, axis=0)[0]
    np.testing.assert_array_equal(reached, passes.min(axis=0))
    assert set(np.unique(found)) == {1, 2, 3}


def test_watershed_stays_within_its_mask():
    height, markers = np.zeros((3, 5)), np.zeros((3, 5), int)
    markers[1, 0] = 4
    mask = np.ones((3, 5), bool)
    mask[:, 2] = False
    found = classical.watershed(height, markers, mask=mask)
    assert (found[:, :2] == 4).all()
    assert not found[:, 2:].any()


def test_watershed_says_what_it_needs():
    with pytest.raises(ValueError, match="markers are all 0"):
        classical.watershed(np.eye(3), np.zeros((3, 3), int))
    with pytest.raises(ValueError, match=re.escape("markers have shape (2, 3)")):
        classical.watershed(np.eye(3), np.ones((2, 3), int))
    with pytest.raises(ValueError, match=re.escape("mask have shape (2, 3)")):
        classical.watershed(np.eye(3), np.eye(3, dtype=int), mask=np.ones((2, 3)))


@pytest.mark.parametrize(("gap", "pieces"), [(-2, 1), (2, 2)])
def test_split_touching_cuts_what_a_mask_has_joined(gap, pieces):
    mask = two_discs(gap)
    assert ndimage.label(mask)[1] == pieces
    found = classical.split_touching(mask)
    assert found.max() == 2
    np.testing.assert_array_equal(found > 0, mask)
    assert found[12, 12] != found[12, 28 + gap]
    areas = np.bincount(found.ravel())[1:]
    assert abs(areas[0] - areas[1]) <= 16  # the cut goes through the neck


def test_depth_says_how_deep_a_neck_must_be():
    mask = two_discs(-4)  # the tops at 8 or 9, the neck between them some 5 high
    assert classical.split_touching(mask, depth=1).max() == 2
    assert classical.split_touching(mask, depth=5).max() == 1


def test_split_touching_keeps_small_objects_and_empty_masks():
    mask = two_discs(2)
    mask[0, 0] = mask[23, 45:48] = True
    assert classical.split_touching(mask, depth=3).max() == 4
    assert not classical.split_touching(np.zeros((5, 5), bool)).any()
    assert (classical.split_touching(np.ones((5, 5), bool)) == 1).all()
    with pytest.raises(ValueError, match="depth must be above 0"):
        classical.split_touching(mask, depth=0)


def test_a_pixel_at_a_corner_belongs_to_its_object():
    mask = np.zeros((8, 8), bool)
    mask[:5, :5] = mask[5, 5] = True
    assert (classical.split_touching(mask)[mask] == 1).all()


# ----------------------------------------------------------------- random walker


def walk_by_dense_algebra(image, markers, beta):
    """Probabilities from the full matrix of the graph, solved at once."""
    values, known = image.ravel(), markers.ravel()
    places = np.arange(image.size).reshape(image.shape)
    laplacian = np.zeros((image.size, image.size))
    for axis in range(image.ndim):
        first = places.take(range(image.shape[axis] - 1), axis).ravel()
        second = places.take(range(1, image.shape[axis]), axis).ravel()
        for i, j in zip(first, second, strict=True):
            w = np.exp(-beta * (values[i] - values[j]) ** 2 / image.var()) + 1e-10
            laplacian[i, j] -= w
            laplacian[j, i] -= w
            laplacian[i, i] += w
            laplacian[j, j] += w
    names = np.unique(known[known > 0])
    found = (known == names[:, None]).astype(float)
    free = known == 0
    within, across = laplacian[np.ix_(free, free)], laplacian[np.ix_(free, ~free)]
    found[:, free] = np.linalg.solve(within, -across @ found[:, ~free].T).T
    return found.reshape(-1, *image.shape)


@pytest.mark.parametrize("size", [(9, 11), (4, 5, 6)])
@pytest.mark.parametrize("beta", [0, 3, 10])
def test_random_walker_solves_the_equations_of_its_graph(size, beta):
    image = np.random.default_rng(1).normal(size=size)
    markers = np.zeros(size, int)
    markers.flat[[0, 1, 40, -1]] = [5, 5, 2, 9]
    wanted = walk_by_dense_algebra(image, markers, beta)
    found = classical.random_walker_probabilities(image, markers, beta=beta)
    np.testing.assert_allclose(found, wanted, atol=1e-8)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-8)
    labels = classical.random_walker(image, markers, beta=beta)
    names = np.array([2, 5, 9])
    np.testing.assert_array_equal(labels, names[wanted.argmax(axis=0)])


def test_random_walker_is_that_of_drawn_walks():
    image = np.array([[0.0, 1.0, 1.0, 3.0, 2.0]])
    markers = np.array([[1, 0, 0, 0, 2]])
    p = classical.random_walker_probabilities(image, markers, beta=0.5)[1, 0]
    w = np.exp(-0.5 * np.diff(image[0]) ** 2 / image.var())
    rng = np.random.default_rng(0)
    for start in (1, 2, 3):
        place = np.full(20_000, start)
        for _ in range(400):
            walking = (place > 0) & (place < 4)
            right = w[place.clip(0, 3)] / (w[place.clip(0, 3)] + w[place.clip(1) - 1])
            step = np.where(rng.random(place.size) < right, 1, -1)
            place = np.where(walking, place + step, place)
        assert (place == 4).mean() == pytest.approx(p[start], abs=0.015)


def test_random_walker_does_not_depend_on_the_units_of_the_image():
    image, markers = random_image(2), np.zeros((24, 31), int)
    markers[0, 0], markers[-1, -1] = 1, 2
    one = classical.random_walker_probabilities(image, markers)
    other = classical.random_walker_probabilities(1000 * image - 500, markers)
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_random_walker_where_all_is_known():
    markers = np.array([[1, 3], [3, 1]])
    found = classical.random_walker_probabilities(np.eye(2), markers)
    np.testing.assert_array_equal(found, [markers == 1, markers == 3])


@pytest.mark.parametrize(
    ("image", "markers", "options", "text"),
    [
        (np.eye(3), np.eye(3, dtype=int), {}, "two different numbers from 1, got [1]"),
        (np.ones((3, 3)), np.arange(9).reshape(3, 3), {}, "constant"),
        (np.eye(3), np.arange(9).reshape(3, 3), {"beta": -1}, "beta must be 0 or more"),
        (np.eye(3), np.arange(6).reshape(2, 3), {}, "markers have shape (2, 3)"),
        (np.arange(3.0), np.arange(3), {}, "(H, W) or (D, H, W), got shape (3,)"),
    ],
)
def test_random_walker_says_what_it_needs(image, markers, options, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        classical.random_walker(image, markers, **options)


# -------------------------------------------------------------------- the forest


def test_features_of_a_paraboloid_are_its_derivatives():
    rows, columns = (np.mgrid[:61, :61] - 30).astype(float)
    image = 1.5 * rows**2 + 0.5 * columns**2  # second derivatives 3 and 1
    found = classical.pixel_features(image, sigmas=(2,))[:, 30, 36]
    value, mean, slope, first, second, _ = found
    assert value == 18
    assert mean == pytest.approx(18 + (3 + 1) / 2 * 2**2, rel=0.01)
    assert slope == pytest.approx(6, rel=0.01)
    assert first == pytest.approx(3, rel=0.01)  # the Gaussian is cut at 4 sigma
    assert second == pytest.approx(1, rel=0.01)


def test_texture_is_the_deviation_within_the_window():
    board = 5 + 2 * (np.indices((40, 40)).sum(axis=0) % 2)  # 5 and 7 in turn
    texture = classical.pixel_features(board, sigmas=(3,))[-1]
    np.testing.assert_allclose(texture[15:25, 15:25], 1, atol=1e-4)
    moved = classical.pixel_features(board + 1e6, sigmas=(3,))[-1]
    np.testing.assert_allclose(moved, texture, atol=1e-4)


def test_rounding_leaves_no_texture_below_0():
    step = np.repeat([0.1, 1e8 / 3], 30)[None].repeat(20, axis=0)
    assert np.isfinite(classical.pixel_features(step)).all()


def test_features_of_a_volume_and_of_colours_stand_side_by_side():
    rng = np.random.default_rng(0)
    assert classical.pixel_features(rng.random((6, 7, 8)), sigmas=(1,)).shape[0] == 7
    colours = rng.random((9, 8, 3))
    both = classical.pixel_features(colours, sigmas=(1, 2), channels=True)
    alone = [classical.pixel_features(colours[..., c], sigmas=(1, 2)) for c in range(3)]
    np.testing.assert_array_equal(both, np.concatenate(alone))
    with pytest.raises(ValueError, match="sigmas must be above 0"):
        classical.pixel_features(colours, sigmas=())


def test_a_forest_learns_discs_that_a_threshold_cannot_tell_from_lines():
    def scene(seed):
        phantom = phantoms.cells((64, 64), 3, seed=seed, noise=0.01)
        image = phantom.image.astype(float)
        image[::8] = image.max()  # scratches as bright as a nucleus
        return image, (phantom.labels > 0).astype(int)

    scenes = [scene(seed) for seed in range(5)]
    features = [classical.pixel_features(image) for image, _ in scenes]
    labels = [truth for _, truth in scenes]
    forest = classical.fit_forest(features[:4], labels[:4], pixels=500, trees=20)
    found = classical.apply_forest(forest, features[4])
    assert found.shape == (2, 64, 64)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)
    image, truth = scenes[4]
    by_threshold = image > classical.otsu_thresholds(image)[0]
    learned = metrics.dice_score(found[1] > 0.5, truth)
    assert learned > 0.85 > metrics.dice_score(by_threshold, truth)


def test_the_same_seed_gives_the_same_forest():
    image = random_image()
    features, labels = classical.pixel_features(image), (image > 0).astype(int)
    maps = [
        classical.apply_forest(
            classical.fit_forest([features], [labels], pixels=50, trees=5, seed=seed),
            features,
        )
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(maps[0], maps[1])
    assert (maps[0] != maps[2]).any()


def test_a_pixel_is_drawn_once():
    features, labels = np.array([[[0.0, 1.0]]]), np.array([[0, 1]])
    for seed in range(6):
        forest = classical.fit_forest(
            [features], [labels], pixels=2, trees=1, seed=seed
        )
        assert forest.classes_.tolist() == [0, 1]


def test_a_forest_says_what_does_not_belong_together():
    features = classical.pixel_features(np.eye(8))
    labels = np.eye(8, dtype=int)
    with pytest.raises(ValueError, match="got 1 and 0"):
        classical.fit_forest([features], [])
    with pytest.raises(ValueError, match="do not belong together"):
        classical.fit_forest([features], [labels[:4]])
    forest = classical.fit_forest([features], [labels], trees=2)
    with pytest.raises(ValueError, match=r"fitted to 21 features, got 20"):
        classical.apply_forest(forest, features[:20])
