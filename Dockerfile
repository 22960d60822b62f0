# The sidecars image: one static binary and the root certificates, nothing
# else. Build with "make image", or: make build && docker build -t airlock-sidecars .
FROM scratch
COPY bin/sidecars /sidecars
COPY --chown=65532:65532 image/ /
USER 65532:65532
ENV PATH=/
STOPSIGNAL SIGTERM
VOLUME ["/var/lib/airlock"]
EXPOSE 8888 9099 9100 9418 9420
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["/sidecars", "ctl", "health"]
ENTRYPOINT ["/sidecars"]
