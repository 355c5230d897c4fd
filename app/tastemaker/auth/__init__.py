"""Who is asking, and what they may do. In the order of a request: the people there are
(`accounts`), threads of their own for what must not wait for each other (`lanes`), where a request
comes from (`origins`), wrong passwords (`failed_logins`), who sends it (`identity`), also by an API
token (`tokens`), what its route lets them do (`permissions`), and the middleware around it all
(`middleware`)."""
