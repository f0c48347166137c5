#!/bin/sh
# Creates storage that outlives the job. Jobs that use it come after this one.
#DW create_persistent type=lustre name=counter
