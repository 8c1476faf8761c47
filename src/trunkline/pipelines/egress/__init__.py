"""Outputs that leave for elsewhere: ``base`` is what a kind of target must do, ``step`` the step that does it for a job."""
