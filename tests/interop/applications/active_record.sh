#!/bin/sh
# ActiveRecord's tasks, which are behind Rails' db:create, db:schema:load, db:test:prepare and db:drop: HOST PORT.
exec ruby -W0 "$(dirname "$0")/active_record.rb" "$1" "$2"
