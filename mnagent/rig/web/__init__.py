"""``mnagent rig serve``: a page with places, the run that goes on, past runs, and their comparison.

It only shows: nothing is started or changed from it. `markup` makes HTML that is escaped by
construction, `pictures` draws, `live` follows a run, `comparison` puts runs of one kind side by
side, `places` asks what there is to run on, `gate` says who may look, `pages` and `application`
serve it.
"""
