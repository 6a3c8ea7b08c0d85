"""docs/benchmark.md, written from the record of `experiments.benchmark.figures`."""

from experiments.benchmark.arrangements import TYPE_NAMES
from experiments.records import Record

_FIGURES = ("MPJPE", "I-MPJPE", "AVE-P", "MAX-P")


def page(record: Record) -> str:
    """The whole page, Markdown."""
    frames, seed = record.settings["frames"], record.settings["seed"]
    rows = [
        ("published regressor", "published baseline/all"),
        ("this benchmark, published definitions", "published definitions/all"),
        ("this benchmark, exactly", "exact/all"),
    ]
    main = [f"| {name} | {_cells(record, key)} |" for name, key in rows]
    kinds = [
        f"| {kind} | {_cells(record, f'published definitions/{kind}')} | "
        f"{record[f'exact/{kind}/AVE-P']:.2f} | {record[f'exact/{kind}/MAX-P']:.1f} |"
        for kind in TYPE_NAMES
    ]
    off = {
        name: record[f"published definitions/all/{name}"] / record[f"published baseline/all/{name}"]
        - 1
        for name in _FIGURES
    }
    compared = ", ".join(f"{name} {share:+.0%}" for name, share in off.items())
    return _TEXT.format(
        frames=frames,
        seed=seed,
        main="\n".join(main),
        kinds="\n".join(kinds),
        compared=compared,
        apart=record["share of frames/apart or grazing, under 1 mm"],
        deep=record["share of frames/deep, over 15 mm"],
        true_ave=record["truth/AVE-P"],
        true_max=record["truth/deepest vertex"],
        seconds=record["time/a frame, compilation included"],
    )


def _cells(record: Record, prefix: str) -> str:
    shown = ("{:.1f}", "{:.1f}", "{:.2f}", "{:.1f}")
    values = (record[f"{prefix}/{name}"] for name in _FIGURES)
    return " | ".join(form.format(value) for form, value in zip(shown, values, strict=True))


_TEXT = """\
# The synthetic benchmark

**Everything here is synthetic.** No image, no person and no network is involved: the hands are
those of the hand model in use, and the regressor and the detector are random numbers with a
structure. It is there to test and compare refinements where the truth is known, on any machine and
with no download. It says nothing about how well a refinement does on photographs.

```bash
manofit benchmark make --out bench --frames 64 --seed 0
manofit refine bench/predictions.npz --out bench/refined.npz
manofit evaluate bench/refined.npz --truth bench/truth.npz --before bench/predictions.npz
```

`make` writes `truth.npz`, `predictions.npz` (both [canonical files](conventions.md)) and
`benchmark.json`: options, seed, and the figures reached. The same options give the same bytes.
Frame i is the same whatever the number of frames. Other noise of the detector changes `joints_3d`
and `keypoints_2d` of the predictions and nothing else, so that noise levels can be compared frame
by frame.

## The truth

![Twenty-four true pairs](images/benchmark_truth.png)

Five contact types take turns, and a frame's `frame_id` begins with its own: `fingertips` touching,
`interlocked` fingers, `clasp`, `palms` (palm on palm), `back` (a hand over the back of the other).

1. Finger poses are blends of two of the hand model's own pose samples, or come from its mean and
   leading components where it has none. A contact type asks for curled or open ones, straightens or
   spreads them, and may make one hand the other's mirror image in part.
2. The left hand is laid out to the right palm, slides along a straight line until the surfaces
   touch, and settles where more skin comes near. Hands that meet along a line from outside are not
   interlocked through each other.
3. In `interlocked`, `clasp` and `back`, fingers then close, each as far as the other hand lets it.
4. A frame is kept if the surfaces are under 2 mm apart, no vertex is deeper than 0.5 mm, the wrist
   openings are clear, and both forearms, which the model does not have, would find room within what
   a wrist can bend. Both hands are then turned together: the camera looks from anywhere.

## The simulated regressor

![The predictions of the same pairs](images/benchmark_start.png)

White noise would flatter a Gaussian prior. The errors have causes instead, and share them:

- **Finger pose**: some way to the mean pose; errors along the six leading pose components, a hand's
  curl and spread as a whole; in three hands of ten, two neighbouring fingers are mixed up.
- **Orientation**: a twist that both hands share and one of each hand's own, twice as large out of
  the picture's plane as in it.
- **Shape**: shrunk towards the average hand, with noise that both hands mostly share.
- **Where the hands are**: the way between the hands' middles is noisy and underestimated, most of
  all in depth; it refers to the middles, not the wrists, because the middles can be seen.
- **One hand worse**: the hand further from the camera usually errs twice as much as the other.
- **A lost hand**: in one frame of four the hidden hand is drawn most of the way onto the other.
- **Hard frames**: a factor of each frame, which all its errors but the shape's share.
- **Camera**: a weak camera whose scale is off by 2 % and whose offset by 0.6 % of half the crop
  (standard deviations; `--camera-error`).

Two global knobs scale this, both 1 by default: `--error-scale` (pose, orientation) and
`--place-scale` (where the hands are). Nothing is rejected or scaled to fit a frame.

## The simulated detector

Gaussian noise of `--joint-noise-mm` (5) along each axis and `--keypoint-noise-px` (2, of a 224 px
crop); a share `--missing` (0.05) of the joints is not found and has confidence 0, in 2D and 3D
alike; a share `--outliers` (0) is mistaken for another joint of the two hands, with confidence 1.

## How wrong the predictions are

From [benchmark_figures.json](../experiments/results/benchmark_figures.json), which holds the
command, the commit, the device and the versions; {frames} frames, seed {seed}, millimetres.

| | MPJPE | I-MPJPE | AVE-P | MAX-P |
|---|---|---|---|---|
{main}

The published regressor is IHMR's baseline on its closely interacting subset (Rong et al., 3DV 2021,
supplement, Table 2). Published definitions: I-MPJPE with the mean and the standard deviation of
both hands' joints matched along each axis; AVE-P and MAX-P read from the 32^3 grid with its
alignment, which also reads several millimetres between hands that only touch. Exactly: right wrists
aligned; distances to the surface. Against the published figures:
{compared}.
AVE-P falls short: skins that only touch have less to enter than skin that gave way, and an overlap
large enough for AVE-P would take I-MPJPE and MAX-P with it. A frame's reading by the grid also
depends on where its open wrists point, so the means of a few dozen frames move by a tenth and more.

By contact type; the last two columns are exact:

| contact type | MPJPE | I-MPJPE | AVE-P | MAX-P | AVE-P, exact | MAX-P, exact |
|---|---|---|---|---|---|---|
{kinds}

In {apart:.0%} of the frames no vertex is deeper than 1 mm, in {deep:.0%} one is deeper than 15 mm.
The truth's AVE-P is {true_ave:.5f} mm, its deepest vertex {true_max:.3f} mm. A frame took
{seconds:.2f} s to make on two CPU cores.

## What it is not

- **Not a data set of real interactions.** Contact types take equal shares, the views are uniform,
  and nobody's habits are in it.
- **Not IHMR's subset.** The supplement refers to the main paper for how closely interacting frames
  were selected, so the rule is not repeated here. Every frame of this benchmark is in contact;
  contact types serve as subsets.
- **Not a network's errors.** Their size is the published one in the mean; their structure is a
  guess with reasons.
- **No soft skin.** Real hands in contact press into each other; these only touch.
"""
