"""The separate judge: tests run in one jail, the program in another, and only typed values cross.

    values      what a value looks like on the way, and the objects that both sides keep in step
    peer        requests and answers over the connection, nested as calls and callbacks are
    classes     the program's classes as the judge sees them
    proxies     the program's functions, instances and iterators as the judge sees them
    host        the program's side: runs the program, then does what the judge asks
    fitness     tests that cannot be judged this way, and why
    judge       the judge's side: runs the tests

Nothing that the program's side sends is run, imported or trusted: it is data, parsed by `values`, and wrong data ends
the judgement. The judge in turn sends names, arguments and nothing else: no test, no expected value, no count.
"""
