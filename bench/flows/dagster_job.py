"""A job of ``$FLOW_COUNT`` mapped ops that do nothing: ``$FLOW_KIND`` is ``call`` (in one process) or ``process``."""

import os

from dagster import DynamicOut, DynamicOutput, in_process_executor, job, multiprocess_executor, op

EXECUTORS = {"call": in_process_executor, "process": multiprocess_executor.configured({"max_concurrent": 2})}


@op(out=DynamicOut())
def numbers():
    for number in range(int(os.environ["FLOW_COUNT"])):
        yield DynamicOutput(number, mapping_key=str(number))


@op
def nothing(_number):
    return None


@job(executor_def=EXECUTORS[os.environ["FLOW_KIND"]])
def many():
    numbers().map(nothing)
