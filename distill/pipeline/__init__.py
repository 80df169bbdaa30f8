"""The whole job of a config: dataset, trained routers, evaluation, one comparison.

    plan        the steps of a job, in order
    layout      where what they make lies
    build, train, calibrate, evaluate
                one step each, as the commands of these names do it
    export      what is made of a finished run

Each step leaves a folder that is whole or absent, and is skipped when its result is there and was
made from the same config; so a killed job goes on where it stopped, and `distill train` then
`distill evaluate` do piecewise what `distill run` does at once.
"""
