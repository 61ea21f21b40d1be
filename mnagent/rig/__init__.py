"""The test rig: real daemons, routers and traffic in network namespaces (later: machines and
boards).

Layers, each usable alone: `namespace` (one network stack), `host` (processes in it), `topology`
(links between them), `impairment` (a wire that delays, loses and limits), `capture` (what a link
carried), `traffic` (what applications notice), `daemon` (mnagent and radvd as real processes),
`roaming` (all of it around one mobile node), `checks` and `report` (what it means), `demo` (the
story). `library` and `recorder` (results, kept), `telling` (what goes on, told), `web` (all of that
as a page) are for whatever a scenario runs on.
"""
