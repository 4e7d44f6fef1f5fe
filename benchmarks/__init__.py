"""messaging beside its peers: `python -m benchmarks` measures all of them in one run and prints the ratios.

A *subject* is one way to send messages, for example messaging over zmq with a worker pool, or grpcio. A *row* is one
kind of load, for example 16 threads that call. Figures of different machines or runs say nothing beside each other,
so the subjects take turns within each round of a row, and only ratios within one run are compared with the targets.

    __main__    the command line
    rows        the kinds of load, and on which subjects each is put
    rounds      the order in which subjects take turns, and what came out
    servers     the brokers that subjects share
    rig         one subject set up: its infrastructure, its server processes, its client process
    processes   starting processes, talking to them, and what they cost
    idle        what services cost a broker while nothing happens
    worker      what runs in such a process
    load        the loops that are timed
    subject     what a subject must be able to do; subjects/ holds one module for each
    targets     what is promised, as ratios
    report      the table for people, the JSON for machines
"""
