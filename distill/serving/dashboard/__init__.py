"""One page of what the store holds, for whoever has the admin key.

    drift       whether what the router decides is like what it was calibrated on: pure
    reference   what it was calibrated on, from its run
    view        the page's figures
    routes      the page, and the judgement of a disagreement

The page is rendered here, with its styles and plots inside; it has no script and asks for nothing.
"""
