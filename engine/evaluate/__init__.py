"""`python -m engine evaluate`: is the avatar like the person, does it feel as told, and does it know what it does not know?"""
