"""Figure 3: adversarial attacks over epsilon, at the size of the test."""

from nst.recipes.published import Exhibit, published
from nst.recipes.rows import NETWORKS_OF_TABLE_2, TWINS_OF_TABLE_2, evaluation, small_evaluations

# fmt: off
EXHIBITS = (Exhibit(
    "figure 3",
    title="top-1 % under attack; FGSM at several epsilons, PGD of 10 steps at 16 (section 3.4 gives the latter in "
          "numbers)",
    metrics={"fgsm_1": "FGSM 1", "fgsm_2": "2", "fgsm_4": "4", "fgsm_8": "8", "fgsm_16": "16", "pgd_16": "PGD 16"},
    columns=["adversarial"],
    rows=published({"adversarial": "pgd_16"}, {
        "EfficientNet-L2":     (1.1,),
        "Noisy Student (L2)":  (1.6,),
    }),
    twin_headings=TWINS_OF_TABLE_2,
),)

FULL_SIZE = tuple(
    evaluation(
        f"figure3_{network}", row, "adversarial", f"figure 3: {row} at 800 px under FGSM and PGD",
        of=run, pictures="50,000 pictures", hours="7.5", measured="attacks",
    )
    for network, row, run in NETWORKS_OF_TABLE_2
)
# fmt: on
ROWS = (*FULL_SIZE, *small_evaluations("figure 3", "adversarial", "attacks"))
