{{/* The image of a service: registry/the0/NAME:TAG. The tag is the chart's own version unless values set one. */}}
{{- define "the0.image" -}}
{{- with .root.Values.image.registry }}{{ . }}/{{ end -}}
the0/{{ .name }}:{{ default .root.Chart.AppVersion .root.Values.image.tag }}
{{- end }}

{{/* The settings of a service as a JSON object of texts: its own before those of all. */}}
{{- define "the0.settings" -}}
{{- $texts := dict }}
{{- range $name, $value := merge (dict) (default (dict) .service.settings) .root.Values.settings }}
{{- $_ := set $texts $name (include "the0.text" $value) }}
{{- end }}
{{- toJson $texts }}
{{- end }}

{{/* A value as text. Helm reads all numbers as floats, and prints large ones with an exponent. */}}
{{- define "the0.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}
