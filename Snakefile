# The batch run as a graph: train networks -> run notebooks. `./run_all.sh` calls it and writes the index page after it
# (also when a notebook failed). The plan comes from lib.plan: the same one that --dry-run prices and notebooks check.
import json
import sys

sys.path.insert(0, workflow.basedir)
from lib import settings as profiles
from lib.cli import code_digest, groups
from lib.runtime import results

notebooks = tuple(config["notebooks"])
settings = profiles.load(config["profile"], config["overrides"])
folder = results() / settings.run
jobs = groups(settings, notebooks) if settings.jobs else {}
options = f"--profile {config['profile']} " + " ".join(
    "-p " + json.dumps(f"{name}={json.dumps(value)}").replace("$", "\\$") for name, value in config["overrides"].items())
share = max(1, config["cores"] // config["jobs"])  # threads of each training job


def done(group):
    return f"{folder}/jobs/{group}.done"


def wanted_by(name):
    """The jobs of a notebook: its own groups and the pool's."""
    return [done(g) for g in jobs if g.startswith((f"{name}-", "pool-"))]


rule all:
    input:
        [f"{folder}/{name}/claims.json" for name in notebooks],


rule networks:
    input:
        lambda w: [done(g) for g in sorted(jobs[w.group]["after"])],
    output:
        f"{folder}/jobs/{{group}}.done",
    params:
        networks=lambda w: ",".join(jobs[w.group]["keys"]),
    log:
        f"{folder}/jobs/{{group}}.log",
    threads: share
    shell:
        "export REPRO_THREADS={threads}; started=$SECONDS; "
        "if {sys.executable} -m lib train {wildcards.group} {options} --notebooks "
        + ",".join(notebooks)
        + " --done {output} > {log} 2>&1; "
        "then echo '{wildcards.group}: ready after' $((SECONDS - started)) s; "
        "else tail -n 5 {log} >&2; echo '{wildcards.group} failed: see {log}' >&2; exit 1; fi"


rule notebook:
    input:
        lambda w: wanted_by(w.name),
        "notebooks/{name}.ipynb",
        "claims/{name}.yaml",
    output:
        f"{folder}/{{name}}/claims.json",
    params:
        code=code_digest(),
    log:  # kept when the job fails, unlike outputs
        f"{folder}/{{name}}/notebook.ipynb",
        f"{folder}/{{name}}/notebook.html",
        f"{folder}/{{name}}/card.json",
    threads: config["cores"]
    shell:
        "export REPRO_THREADS={threads}; exec {sys.executable} -m lib notebook {wildcards.name} {options}"
