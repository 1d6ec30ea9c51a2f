"""Open-loop load: when requests are sent is drawn beforehand and does not depend on how the server fares.

`plan` (what is sent when) -> `generator` (over HTTP, in the ways that `dialects` knows) -> `outcomes` (what came of it)
"""
