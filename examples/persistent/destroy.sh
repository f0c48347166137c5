#!/bin/sh
# Removes the storage and what is in it.
#DW destroy_persistent name=counter
