"""Images, audio and video: from a request's bytes to bounded arrays. No torch here."""
