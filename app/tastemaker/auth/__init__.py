"""Who is asking, and what they may do. In the order of a request: the people there are
(`accounts`), where a request comes from (`origins`), who sends it (`identity`), what its route lets
them do (`permissions`), and the middleware around it all (`middleware`)."""
