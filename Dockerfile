# CPU image. For a GPU, take a CUDA base and drop the index argument.
FROM python:3.11-slim
RUN useradd --create-home tastemaker && mkdir /data && chown tastemaker /data
WORKDIR /srv/tastemaker
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY templates templates
COPY static static
COPY migrations migrations
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu '.[postgres]'
USER tastemaker
ENV TASTEMAKER_HOME=/data
VOLUME /data
EXPOSE 8000
CMD ["tastemaker", "serve", "--host", "0.0.0.0", "--no-worker"]
