# The batch run as a graph: train networks -> run notebooks. `./run_all.sh` calls it and writes the index page after it
# (also when a notebook failed). The plan comes from lib.papers.plan: the same one that --dry-run prices and notebooks check.
import json
import os
import shlex
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, workflow.basedir)
from lib.jobs import batch_jobs, mark
from lib.papers import settings as profiles
from lib.runtime import results
from lib.values.keys import digest

# lib.batch gives Snakemake folders of the run's own for cache and temporary files, since the user's cache may not be
# writable and a killed Snakemake leaves its files; jobs have the user's folders
for name, theirs in json.loads(os.environ.pop("REPRO_THEIRS", "{}")).items():
    os.environ.pop(name, None)
    os.environ |= {name: theirs} if theirs else {}
tempfile.tempdir = None  # read again from the environment

notebooks = tuple(config["notebooks"])
settings = profiles.load(config["profile"], config["overrides"])
folder = results() / settings.run
jobs = batch_jobs(settings, notebooks)
python = shlex.quote(sys.executable)
names = ",".join(notebooks)
options = shlex.join(
    ["--profile", config["profile"]]
    + [word for name, value in config["overrides"].items() for word in ("-p", f"{name}={json.dumps(value)}")]
)


workdir: str(folder)  # paths are relative to it: braces in its name would be taken for wildcards


def done(job):
    return str(mark(Path(), job))


rule all:
    input:
        [f"{name}/claims.json" for name in notebooks],


rule networks:
    input:
        # ancient: weights of parents never change, so a job whose parent ran again is not started once more
        ancient(lambda w: [done(j) for j in sorted(jobs[w.job]["after"])]),
    output:
        "jobs/{job}.done",
    params:
        work=lambda w: digest(jobs[w.job]["work"]),
    log:
        "jobs/{job}.log",
    threads: config["threads"]["networks"]
    resources:
        job=lambda w: config["gpus"].get(w.job, 1),
        gpu=lambda w: config["gpus"].get(w.job, config["gpu"]),
        nodes=1,  # all its GPUs are in one, also under Slurm
        mem_mb=lambda w: config["mem_mb"].get(w.job, 0),
        runtime=lambda w, attempt: attempt * config["minutes"].get(w.job, 0),
    shell:
        "export REPRO_THREADS={threads}; "
        "{python} -m lib train {wildcards.job:q} {options} --notebooks {names} --done {output:q} > {log:q} 2>&1 || {{ "
        "tail -n 3 {log:q} >&2; echo {wildcards.job} failed: see {log:q} >&2; exit 1; }}"


rule notebook:
    input:
        # lib.batch removes claims.json of what was made of another library, other settings, notebooks or claims
        lambda w: [done(name) for name, job in jobs.items() if w.name in job["wanted_by"]],
    output:
        "{name}/claims.json",
    # page and card are kept when the job fails, unlike outputs; as logs they would exist, empty, before it starts
    threads: config["threads"]["notebook"]
    resources:
        job=config["gpu"],
        gpu=config["gpu"],
        mem_mb=lambda w: config["mem_mb"].get(w.name, 0),
        runtime=lambda w, attempt: attempt * config["minutes"].get(w.name, 0),
    shell:
        "export REPRO_THREADS={threads}; {python} -m lib notebook {wildcards.name} {options} || status=$?; "
        "[ ${{status:=0}} -le 128 ] || echo {wildcards.name} failed: it was killed, status $status >&2; exit $status"
