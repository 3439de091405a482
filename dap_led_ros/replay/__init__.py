"""Judge enhancement on recorded bags: replay, measure, report, compare. Knows no ROS, no torch."""
