# spotESM: ESM-2 and ESM C protein embeddings on GPUs that may be taken away at any moment.
#
#   snakemake --cores all --resources gpu=4
#
# What is placed where, for a dataset called "demo" (everything in the working directory):
#   resources/weights/                      weights, and a manifest with their sha256
#   results/demo/shards/3-of-16.fasta       the input, split by content; split.json, rejected.tsv
#   results/demo/checkpoints/3-of-16/       finished sequences of a shard in progress
#   results/demo/shards/3-of-16.h5          the embeddings of a shard, until they are merged
#   results/demo/embeddings.h5              the result; rejected.tsv, summary.json, report.html
#   results/demo/shards.json, precision.json    what later runs keep to
#   results/demo/logs/, benchmarks/         a file a job
from pathlib import Path

from snakemake.utils import min_version

min_version("9.0")

# Datasets of the user's own replace the default config; merged with it key by key, they would be
# embedded along with the demo, by the demo's untrained weights.
if not workflow.overwrite_configfiles and "datasets" not in config and Path("config.yaml").exists():

    configfile: "config.yaml"


include: "rules/common.smk"
include: "rules/keep.smk"
include: "rules/weights.smk"
include: "rules/translate.smk"
include: "rules/split.smk"
include: "rules/embed.smk"
include: "rules/merge.smk"
include: "rules/report.smk"
include: "rules/plan.smk"


localrules:
    all,


# After everything that Snakemake has to say: where the results are, or what went wrong.
logger.addFilter(with_results)


onstart:
    begin_run()


onsuccess:
    say_last(describe_results(ASKED, since=STARTED))


onerror:
    end_broken_run()
    say_last(explain_failures(since=STARTED), logging.ERROR)


rule all:
    input:
        expand("results/{dataset}/report.html", dataset=DATASETS),
